//! The programs of `tests/guests`, compiled: what is written in Rust by `rustc`, what is written in C by `clang`, where
//! it is installed.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Sources of the interpreter, of those that `cargo xtask test` lays there.
const ENGINE: &[&str] = &["quickjs.c", "libregexp.c", "libunicode.c", "cutils.c", "libbf.c"];
/// What these sources want to know; the C library for WebAssembly has but one way to round.
const ENGINE_WORDS: &[&str] = &[
    "-DCONFIG_VERSION=\"guest\"",
    "-DCONFIG_BIGNUM",
    "-DEMSCRIPTEN",
    "-D_GNU_SOURCE",
    "-DFE_DOWNWARD=0",
    "-DFE_UPWARD=0",
];

/// Compiles a program in Rust.
pub fn rust(name: &str) -> Vec<u8> {
    rust_with(name, &[])
}

/// The same with words of its own for the compiler.
pub fn rust_with(name: &str, words: &[&str]) -> Vec<u8> {
    let mut compiler = Command::new("rustc");
    compiler
        .args(["--edition", "2024", "--target", "wasm32-wasip1"])
        .args(["-Copt-level=3", "-Cstrip=symbols"])
        .args(words)
        .arg(guests().join(name).with_extension("rs"));
    compiled(&mut compiler, name)
}

/// Compiles a program in C; nothing where `clang` cannot.
pub fn c(name: &str) -> Option<Vec<u8>> {
    c_with(name, &[])
}

/// The same with words of its own for the compiler.
pub fn c_with(name: &str, words: &[&str]) -> Option<Vec<u8>> {
    let mut compiler = clang()?;
    compiler.args(words).arg(guests().join(name).with_extension("c"));
    Some(compiled(&mut compiler, name))
}

/// Compiles a JavaScript engine with its script; nothing where its sources or `clang` are not there.
pub fn interpreter() -> Option<Vec<u8>> {
    let mut compiler = clang()?;
    let sources = target().join("interpreter");
    if !sources.join("quickjs.c").exists() {
        eprintln!("SKIPPED: the interpreter's sources are not in `{}`", sources.display());
        return None;
    }
    compiler
        .arg("-w")
        .args(ENGINE_WORDS)
        .arg("-I")
        .arg(&sources)
        .arg(guests().join("script.c"))
        .args(ENGINE.iter().map(|name| sources.join(name)))
        .args(["-lm", "-Wl,-z,stack-size=262144"]);
    Some(compiled(&mut compiler, "script"))
}

fn clang() -> Option<Command> {
    let library = Path::new("/usr/lib/wasm32-wasi/libc.a");
    let runs = Command::new("clang").arg("--version").output();
    if !library.exists() || runs.is_err() {
        eprintln!("SKIPPED: `clang`, `lld` and `wasi-libc` are not installed");
        return None;
    }
    let mut compiler = Command::new("clang");
    compiler.args(["--target=wasm32-wasi", "-O2", "-Wl,--strip-all"]);
    Some(compiler)
}

fn compiled(compiler: &mut Command, name: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let output = folder.path().join("guest.wasm");
    let built = compiler.arg("-o").arg(&output).status().expect("the compiler runs");
    assert!(built.success(), "`{name}` compiles");
    std::fs::read(output).expect("the compiler wrote the module")
}

fn guests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests")
}

/// Where cargo puts what it builds.
fn target() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    std::env::var_os("CARGO_TARGET_DIR").map_or(root, PathBuf::from)
}
