//! Handlers in Python sources.

/// The names a handler usually has, best first.
const NAMES: [&str; 3] = ["lambda_handler", "handler", "main"];

/// Which of the usual names the module defines at its top level.
pub fn handlers(source: &str) -> Vec<&'static str> {
    let defines = |name: &&str| source.lines().any(|line| defines(line, name));
    NAMES.into_iter().filter(defines).collect()
}

fn defines(line: &str, name: &str) -> bool {
    let function = line.strip_prefix("def ").map(str::trim_start);
    let rest = function.unwrap_or(line).strip_prefix(name).map(str::trim_start);
    match rest {
        Some(rest) if function.is_some() => rest.starts_with('('),
        Some(rest) => rest.starts_with('=') && !rest.starts_with("=="),
        None => false,
    }
}
