//! What a command is given to send: a text, a file, or standard input.

use std::fs::File;
use std::io::{BufReader, Read};

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

/// What is read at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// The source that `@FILE` or `-` names.
pub fn open(source: &str) -> anyhow::Result<BufReader<Box<dyn Read>>> {
    let reader: Box<dyn Read> = match source.strip_prefix('@') {
        Some(path) => {
            let file = File::open(path).with_context(|| format!("cannot read `{path}`"))?;
            Box::new(file)
        }
        None if source == "-" => Box::new(std::io::stdin()),
        None => anyhow::bail!("`{source}` is no source: expected `@FILE`, or `-` for standard input"),
    };
    Ok(BufReader::with_capacity(BUFFER_BYTES, reader))
}

/// A text as it is, or all that `@FILE` or `-` names.
pub fn whole(text: &str) -> anyhow::Result<Vec<u8>> {
    if !text.starts_with('@') && text != "-" {
        return Ok(text.as_bytes().to_vec());
    }
    let mut bytes = Vec::new();
    open(text)?.read_to_end(&mut bytes).context("cannot read the body")?;
    Ok(bytes)
}

/// Bytes as the member `name` of a request, in base64 if they are no text.
pub fn put(request: &mut Value, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => request[name] = json!(text),
        Err(_) => request[format!("{name}_base64")] = json!(BASE64.encode(bytes)),
    }
}

/// The bytes of the member `name` of an answer.
pub fn get(answer: &Value, name: &str) -> Vec<u8> {
    if let Some(text) = answer[name].as_str() {
        return text.as_bytes().to_vec();
    }
    let hidden = answer[format!("{name}_base64")].as_str().unwrap_or_default();
    BASE64.decode(hidden).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_a_request_and_an_answer() {
        for bytes in [&b"text"[..], &[0xff, 0]] {
            let mut request = json!({});
            put(&mut request, "body", bytes);
            assert_eq!(get(&request, "body"), bytes);
        }
        assert!(whole("@/no/such/file").is_err());
        assert_eq!(
            whole("@").map_err(|error| error.to_string()),
            Err("cannot read ``".to_owned())
        );
    }
}
