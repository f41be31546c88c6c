//! Fetching from registries: a small server in this process that misbehaves as a real one would not.

use std::collections::HashMap;
use std::io::SeekFrom;
use std::sync::{Arc, Mutex};

use bowline_foundation::digest::Digest;
use bowline_oci::registry::{Registry, RegistryError};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

type Answer = (u16, Vec<(String, String)>, Vec<u8>);
/// Paths, each with what proved who asked.
type Asked = Arc<Mutex<Vec<(String, Option<String>)>>>;
type Answers = Arc<dyn Fn(&str, Option<&str>) -> Answer + Send + Sync>;

/// A server that answers a path and an `Authorization`; remembers what it was asked.
struct Server {
    address: String,
    asked: Asked,
}

impl Server {
    async fn start(answers: impl Fn(&str, Option<&str>) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answers, seen): (Answers, _) = (Arc::new(answers), asked.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answers.clone(), seen.clone()));
            }
        });
        Self { address, asked }
    }

    fn registry(&self, user: &str) -> Registry {
        Registry::new(format!("http://{user}{}", self.address).parse().unwrap(), None)
    }

    fn asked(&self) -> Vec<(String, Option<String>)> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, answers: Answers, seen: Asked) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let authorization = fields.find(|(name, _)| name.eq_ignore_ascii_case("authorization"));
    let authorization = authorization.map(|(_, value)| value.to_owned());
    let (status, headers, body) = answers(&path, authorization.as_deref());
    seen.lock().unwrap().push((path, authorization));
    let mut answer = format!(
        "HTTP/1.1 {status} Some\r\nContent-Length: {}\r\nConnection: close\r\n",
        body.len()
    );
    for (name, value) in headers {
        answer.push_str(&format!("{name}: {value}\r\n"));
    }
    answer.push_str("\r\n");
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.write_all(&body).await;
}

fn found(body: &[u8]) -> Answer {
    (200, Vec::new(), body.to_vec())
}

fn header(status: u16, name: &str, value: &str) -> Answer {
    (status, vec![(name.to_owned(), value.to_owned())], Vec::new())
}

async fn layer_of(registry: &Registry, bytes: &[u8], size: u64) -> Result<Vec<u8>, RegistryError> {
    let mut file = tokio::fs::File::from_std(tempfile::tempfile().unwrap());
    registry.layer("team/a", (Digest::of(bytes), size), &mut file).await?;
    let mut content = Vec::new();
    file.seek(SeekFrom::Start(0)).await.unwrap();
    file.read_to_end(&mut content).await.unwrap();
    Ok(content)
}

#[tokio::test]
async fn manifests_and_blobs_are_read_and_compared() {
    let manifest = b"{\"a\":1}";
    let good = Digest::of(manifest);
    let answers: HashMap<String, Answer> = [
        ("/v2/team/a/manifests/v1".to_owned(), found(manifest)),
        (format!("/v2/team/a/manifests/sha256:{good}"), found(manifest)),
        (
            format!("/v2/team/a/manifests/sha256:{}", Digest::of(b"x")),
            found(manifest),
        ),
        (
            format!("/v2/team/a/blobs/sha256:{}", Digest::of(b"layer")),
            found(b"layer"),
        ),
        (
            format!("/v2/team/a/blobs/sha256:{}", Digest::of(b"damaged")),
            found(b"layer"),
        ),
        (
            "/v2/team/a/manifests/huge".to_owned(),
            found(&vec![b' '; 5 * 1024 * 1024]),
        ),
        ("/v2/team/a/manifests/broken".to_owned(), (503, Vec::new(), Vec::new())),
    ]
    .into();
    let server =
        Server::start(move |path, _| answers.get(path).cloned().unwrap_or((404, Vec::new(), Vec::new()))).await;
    let registry = server.registry("");
    assert_eq!(registry.host(), server.address);
    assert_eq!(registry.manifest("team/a", "v1").await.unwrap(), &manifest[..]);
    let by_digest = format!("sha256:{good}");
    assert_eq!(registry.manifest("team/a", &by_digest).await.unwrap(), &manifest[..]);
    let other = format!("sha256:{}", Digest::of(b"x"));
    let refused = registry.manifest("team/a", &other).await.unwrap_err();
    assert!(matches!(refused, RegistryError::Unusable { .. }), "{refused}");
    assert_eq!(layer_of(&registry, b"layer", 5).await.unwrap(), b"layer");
    for (bytes, size, reason) in [
        (&b"layer"[..], 4, "more than 4 bytes"),
        (b"damaged", 7, "has the digest"),
    ] {
        let refused = layer_of(&registry, bytes, size).await.unwrap_err();
        assert!(refused.to_string().contains(reason), "{refused}");
    }
    assert!(
        registry.manifest("team/a", "huge").await.is_err(),
        "larger than a document may be"
    );
    let missing = registry.manifest("team/a", "nothing").await.unwrap_err();
    assert!(matches!(missing, RegistryError::NotFound { .. }), "{missing}");
    let broken = registry.manifest("team/a", "broken").await.unwrap_err();
    assert!(broken.to_string().contains("503"), "{broken}");
    let nobody = Registry::new("http://127.0.0.1:1".parse().unwrap(), None);
    let refused = nobody.manifest("a", "v1").await.unwrap_err();
    assert!(matches!(refused, RegistryError::Unreachable { .. }), "{refused}");
}

#[tokio::test]
async fn a_token_is_kept_for_its_repository_alone() {
    let server = Server::start(|path, authorization| {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let repository = |text: &str| if text.contains("other") { "other" } else { "a" };
        let good = format!("Bearer for-{}", repository(path));
        match authorization {
            _ if path == "/token" => found(format!("{{\"token\":\"for-{}\"}}", repository(query)).as_bytes()),
            Some(given) if given == good => found(b"{}"),
            _ => {
                let scope = format!("repository:{}:pull", repository(path));
                header(
                    401,
                    "WWW-Authenticate",
                    &format!("Bearer realm=\"/token\",scope=\"{scope}\""),
                )
            }
        }
    })
    .await;
    let registry = server.registry("");
    for name in ["a", "other", "a", "other", "a"] {
        registry.manifest(name, "v1").await.unwrap();
    }
    let asked = server.asked();
    let tokens = asked.iter().filter(|(path, _)| path.starts_with("/token")).count();
    assert_eq!((tokens, asked.len()), (2, 2 * 3 + 3), "{asked:?}");
}

#[tokio::test]
async fn a_token_is_asked_for_and_used_again() {
    let server = Server::start(
        |path, authorization| match (path.split('?').next().unwrap(), authorization) {
            ("/token", Some("Basic dXNlcjpzZWNyZXQ=")) => found(br#"{"token":"t0ken"}"#),
            ("/token", _) => (401, Vec::new(), Vec::new()),
            (_, Some("Bearer t0ken")) => found(b"{}"),
            _ => header(
                401,
                "WWW-Authenticate",
                "Bearer realm=\"/token\",service=\"s\",scope=\"repository:a:pull\"",
            ),
        },
    )
    .await;
    let registry = server.registry("user:secret@");
    for _ in 0..2 {
        assert_eq!(registry.manifest("a", "v1").await.unwrap(), &b"{}"[..]);
    }
    let asked: Vec<String> = server.asked().into_iter().map(|(path, _)| path).collect();
    let manifest = "/v2/a/manifests/v1";
    let token = "/token?service=s&scope=repository%3Aa%3Apull";
    assert_eq!(asked, [manifest, token, manifest, manifest]);
    for user in ["", "user:wrong@"] {
        let refused = server.registry(user).manifest("a", "v1").await.unwrap_err();
        assert!(matches!(refused, RegistryError::Denied { .. }), "{refused}");
        assert!(!refused.to_string().contains("wrong"), "{refused}");
    }
}

#[tokio::test]
async fn a_password_goes_to_its_registry_alone() {
    let elsewhere = Server::start(|_, _| found(b"layer")).await;
    let target = format!("http://{}/cdn", elsewhere.address);
    let server = Server::start(move |path, authorization| match authorization {
        None => header(401, "WWW-Authenticate", "Basic realm=\"r\""),
        Some(_) if path.contains("/blobs/") => header(307, "Location", &target),
        Some(_) => header(302, "Location", "http://registry.example.com/"),
    })
    .await;
    let registry = server.registry("user:secret@");
    assert_eq!(layer_of(&registry, b"layer", 5).await.unwrap(), b"layer");
    assert_eq!(elsewhere.asked(), [("/cdn".to_owned(), None)]);
    assert!(
        server.asked().iter().any(|(_, authorization)| authorization.is_some()),
        "the control"
    );
    let refused = registry.manifest("a", "v1").await.unwrap_err();
    assert!(
        refused.to_string().contains("neither `https` nor on this machine"),
        "{refused}"
    );
}
