//! A `wasi:http` component that knows nothing of Bowline: it tells what it was asked.

use wasi::http::types::{Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Server;

wasi::http::proxy::export!(Server);

impl wasi::exports::http::incoming_handler::Guest for Server {
    fn handle(request: IncomingRequest, outparam: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let status = if path.starts_with("/missing") { 404 } else { 200 };
        let text = format!("{} {path}\n{}", method(&request), read(&request));

        let headers = Fields::new();
        for (name, value) in [("content-type", "text/plain"), ("set-cookie", "visited=yes")] {
            // Both are well formed and none is forbidden.
            headers.append(name, value.as_bytes()).expect("a permitted header");
        }
        let response = OutgoingResponse::new(headers);
        response.set_status_code(status).expect("a known status");
        let body = response.body().expect("the first and only body");
        ResponseOutparam::set(outparam, Ok(response));

        let stream = body.write().expect("the first and only stream");
        for chunk in text.as_bytes().chunks(4096) {
            if stream.blocking_write_and_flush(chunk).is_err() {
                break;
            }
        }
        drop(stream);
        // The receiver may be gone; there is nobody left to tell.
        let _ = OutgoingBody::finish(body, None);
    }
}

fn method(request: &IncomingRequest) -> String {
    match request.method() {
        Method::Get => "GET".to_owned(),
        Method::Post => "POST".to_owned(),
        Method::Put => "PUT".to_owned(),
        Method::Other(name) => name,
        other => format!("{other:?}").to_uppercase(),
    }
}

fn read(request: &IncomingRequest) -> String {
    let mut bytes = Vec::new();
    if let Ok(body) = request.consume()
        && let Ok(stream) = body.stream()
    {
        while let Ok(part) = stream.blocking_read(64 * 1024) {
            bytes.extend(part);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
