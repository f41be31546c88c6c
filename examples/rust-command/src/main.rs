//! A plain program: the event on standard input, the answer on standard output, the log on standard error.

use std::io::{Read, Write};

use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut event = Vec::new();
    std::io::stdin().read_to_end(&mut event)?;
    let event: Value = serde_json::from_slice(&event)?;
    let name = event["name"].as_str().unwrap_or("world");
    let answer = json!({"message": format!("hello, {name}")});
    std::io::stdout().write_all(answer.to_string().as_bytes())?;
    Ok(())
}
