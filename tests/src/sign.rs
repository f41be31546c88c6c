//! Signatures of requests, made apart from the node's own code.

use bowline_foundation::clock::Clock;
use ring::{digest, hmac};

/// What requests are signed with.
#[derive(Clone)]
pub struct Key {
    pub id: String,
    pub secret: String,
}

impl Key {
    /// The headers of a request that is signed now, as `name: value`. A query has one plain parameter at most.
    pub fn headers(&self, method: &str, (host, path): (&str, &str), body: &[u8]) -> [String; 2] {
        // `2026-11-20T23:24:39.123+0000` without what signatures leave out.
        let moment = Clock::system().now().to_lambda_string();
        let moment: String = moment[..19].chars().filter(|mark| !matches!(mark, '-' | ':')).collect();
        let moment = format!("{moment}Z");
        let date = &moment[..8];
        let payload = sha256(body);
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let canonical =
            format!("{method}\n{path}\n{query}\nhost:{host}\nx-amz-date:{moment}\n\nhost;x-amz-date\n{payload}");
        let scope = format!("{date}/us-east-1/lambda/aws4_request");
        let text = format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{}", sha256(canonical.as_bytes()));
        let start = format!("AWS4{}", self.secret).into_bytes();
        let chain = [date, "us-east-1", "lambda", "aws4_request", &text];
        let signature = chain.iter().fold(start, |key, part| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
            hmac::sign(&key, part.as_bytes()).as_ref().to_vec()
        });
        [
            format!("x-amz-date: {moment}"),
            format!(
                "authorization: AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders=host;x-amz-date, Signature={}",
                self.id,
                hex(&signature)
            ),
        ]
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
