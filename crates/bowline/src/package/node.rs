//! Handlers in JavaScript sources.

/// The names a handler usually has, best first.
const NAMES: [&str; 3] = ["handler", "lambda_handler", "main"];

/// Which of the usual names the module exports.
pub fn handlers(source: &str) -> Vec<&'static str> {
    let exports = exports(source);
    NAMES
        .into_iter()
        .filter(|name| exports.iter().any(|export| export == name))
        .collect()
}

/// Whether the source is an ECMAScript module, not a CommonJS script.
pub fn is_module(source: &str) -> bool {
    let module = |line: &str| line.starts_with("export ") || line.starts_with("import ") || line.starts_with("export{");
    source.lines().any(module)
}

/// The names that a source exports, as far as a scan of its lines can tell.
fn exports(source: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for (at, line) in lines(source) {
        if let Some(declaration) = line.strip_prefix("export ") {
            names.extend(declared(declaration));
        }
        if line.starts_with("export {") || line.starts_with("export{") || line.starts_with("module.exports = {") {
            names.extend(listed(&source[at..]));
        }
        let assigned = line.strip_prefix("module.").unwrap_or(line).strip_prefix("exports.");
        names.extend(assigned.and_then(|rest| {
            let (name, value) = rest.split_once('=')?;
            (!value.starts_with('=')).then_some(name.trim())
        }));
    }
    names
}

/// Lines with their offsets, indented ones left out.
fn lines(source: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    source.split_inclusive('\n').map(move |line| {
        at += line.len();
        (at - line.len(), line.trim_end())
    })
}

/// The name in `const handler = …`, `async function handler(…`.
fn declared(declaration: &str) -> Option<&str> {
    let words = ["async ", "function* ", "function ", "const ", "let ", "var "];
    let mut rest = declaration.trim_start();
    let mut found = false;
    for word in words {
        if let Some(after) = rest.strip_prefix(word) {
            rest = after.trim_start();
            found = true;
        }
    }
    let end = rest
        .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'))
        .unwrap_or(rest.len());
    found.then_some(&rest[..end])
}

/// The names in `{ a, b as c, d: e }`: what the outside sees.
fn listed(from: &str) -> impl Iterator<Item = &str> {
    let open = from.find('{').map_or(from.len(), |at| at + 1);
    let close = from[open..].find('}').map_or(from.len(), |at| open + at);
    from[open..close].split(',').map(|item| {
        let item = item.rsplit(" as ").next().unwrap_or(item);
        let item = item.split(':').next().unwrap_or(item).trim();
        let item = item.strip_prefix("async ").unwrap_or(item);
        item.split('(').next().unwrap_or(item).trim()
    })
}
