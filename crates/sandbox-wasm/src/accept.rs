//! Decides by its outside whether a module can run here, and as what.
//!
//! Works on the bytes alone: fast enough for an upload, and total: it answers any input.

use std::collections::BTreeSet;

use wasmparser::{
    ComponentExternalKind, Encoding, ExternalKind, Import, Parser, Payload, TypeRef, Validator, WasmFeatures,
};

use crate::preview1;

/// The export that makes a core module a command.
pub(crate) const COMMAND_EXPORT: &str = "_start";
/// The import module and the exports of the guest SDK's interface.
pub(crate) const SDK_MODULE: &str = "bowline_v1";
pub(crate) const SDK_FAIL: &str = "fail";
pub(crate) const SDK_BEGIN: &str = "begin";
pub(crate) const SDK_WRITE: &str = "write";
pub(crate) const SDK_ASK: &str = "ask";
pub(crate) const SDK_ANSWER: &str = "answer";
pub(crate) const SDK_RESERVE: &str = "bowline_v1_reserve";
pub(crate) const SDK_INVOKE: &str = "bowline_v1_invoke";
pub(crate) const SDK_INIT: &str = "bowline_v1_init";
/// All that the guest SDK imports.
const SDK_IMPORTS: [&str; 5] = [SDK_FAIL, SDK_BEGIN, SDK_WRITE, SDK_ASK, SDK_ANSWER];
/// The component export that serves HTTP requests, without its version.
const HTTP_HANDLER: &str = "wasi:http/incoming-handler@0.2.";

/// How a module is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleShape {
    /// A WASI preview 1 command: one instance an invocation, the event on standard input.
    Command,
    /// A WASI preview 1 reactor with the guest SDK's exports: one instance a sandbox.
    Reactor,
    /// A `wasi:http` 0.2 proxy component: one instance an invocation.
    HttpComponent,
}

/// Why a module cannot run here; the text is for the function's owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The bytes are no WebAssembly at all.
    #[error("the code is not a WebAssembly module: it does not begin with `\\0asm`")]
    NotWasm,
    /// The bytes are not valid, or use a proposal that is not supported.
    #[error("the WebAssembly module is not valid: {0}")]
    Invalid(String),
    /// The module shares memory between threads.
    #[error("the WebAssembly module uses threads (a shared memory), which are not supported")]
    Threads,
    /// The module imports what nobody provides.
    #[error("the WebAssembly module imports what is not provided: {}", .0.join(", "))]
    Imports(Vec<String>),
    /// The module offers no way to be invoked.
    #[error(
        "the WebAssembly module exports neither `_start` (a WASI command) nor `bowline_v1_invoke` (the guest SDK), \
         and a component must export `wasi:http/incoming-handler@0.2.x`"
    )]
    NoEntryPoint,
    /// A needed export is missing.
    #[error("the WebAssembly module does not export `{0}`")]
    MissingExport(&'static str),
}

/// Decides how `module` is run, or why it cannot be.
///
/// The bytes must be a binary module or component; the text format is refused.
pub fn accept(module: &[u8]) -> Result<ModuleShape, Rejection> {
    if !module.starts_with(b"\0asm") {
        return Err(Rejection::NotWasm);
    }
    let outside = Outside::read(module)?;
    if outside.shared_memory {
        return Err(Rejection::Threads);
    }
    let shape = outside.shape()?;
    if !outside.unknown_imports.is_empty() {
        return Err(Rejection::Imports(outside.unknown_imports.into_iter().collect()));
    }
    Validator::new_with_features(features())
        .validate_all(module)
        .map_err(invalid)?;
    Ok(shape)
}

/// What the engine is configured to run.
pub(crate) fn features() -> WasmFeatures {
    let features = WasmFeatures::WASM2
        | WasmFeatures::TAIL_CALL
        | WasmFeatures::EXTENDED_CONST
        | WasmFeatures::RELAXED_SIMD
        | WasmFeatures::COMPONENT_MODEL;
    features - WasmFeatures::GC_TYPES
}

fn invalid(error: wasmparser::BinaryReaderError) -> Rejection {
    Rejection::Invalid(error.to_string())
}

/// What a module shows to its host.
#[derive(Default)]
struct Outside {
    component: bool,
    shared_memory: bool,
    unknown_imports: BTreeSet<String>,
    functions: BTreeSet<String>,
    exports_memory: bool,
    serves_http: bool,
}

impl Outside {
    fn read(module: &[u8]) -> Result<Self, Rejection> {
        let mut outside = Self::default();
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(module) {
            let payload = payload.map_err(invalid)?;
            match payload {
                Payload::Version { encoding, .. } if depth == 0 => {
                    outside.component = encoding == Encoding::Component;
                }
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::MemorySection(memories) => {
                    for memory in memories {
                        outside.shared_memory |= memory.map_err(invalid)?.shared;
                    }
                }
                other if depth == 0 => outside.read_top(other).map_err(invalid)?,
                _ => {}
            }
        }
        Ok(outside)
    }

    fn read_top(&mut self, payload: Payload<'_>) -> wasmparser::Result<()> {
        match payload {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    self.see_import(import?);
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export?;
                    match export.kind {
                        ExternalKind::Func => {
                            self.functions.insert(export.name.to_owned());
                        }
                        ExternalKind::Memory => self.exports_memory |= export.name == "memory",
                        _ => {}
                    }
                }
            }
            Payload::ComponentImportSection(imports) => {
                for import in imports {
                    let name = import?.name.name;
                    if !is_provided_interface(name) {
                        self.unknown_imports.insert(format!("`{name}`"));
                    }
                }
            }
            Payload::ComponentExportSection(exports) => {
                for export in exports {
                    let export = export?;
                    self.serves_http |=
                        export.kind == ComponentExternalKind::Instance && export.name.name.starts_with(HTTP_HANDLER);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn see_import(&mut self, import: Import<'_>) {
        let known = match (import.module, import.ty) {
            (_, TypeRef::Memory(memory)) if memory.shared => {
                self.shared_memory = true;
                true
            }
            (preview1::MODULE, TypeRef::Func(_)) => preview1::provides(import.name),
            (SDK_MODULE, TypeRef::Func(_)) => SDK_IMPORTS.contains(&import.name),
            _ => false,
        };
        if !known {
            self.unknown_imports
                .insert(format!("`{}` from `{}`", import.name, import.module));
        }
    }

    fn shape(&self) -> Result<ModuleShape, Rejection> {
        if self.component {
            return if self.serves_http {
                Ok(ModuleShape::HttpComponent)
            } else {
                Err(Rejection::NoEntryPoint)
            };
        }
        let shape = if self.functions.contains(SDK_INVOKE) {
            if !self.functions.contains(SDK_RESERVE) {
                return Err(Rejection::MissingExport(SDK_RESERVE));
            }
            ModuleShape::Reactor
        } else if self.functions.contains(COMMAND_EXPORT) {
            ModuleShape::Command
        } else {
            return Err(Rejection::NoEntryPoint);
        };
        if !self.exports_memory {
            return Err(Rejection::MissingExport("memory"));
        }
        Ok(shape)
    }
}

/// Whether a component may import the interface: those of the `wasi:http/proxy` and `wasi:cli/imports`
/// worlds, in any release of WASI 0.2.
fn is_provided_interface(name: &str) -> bool {
    const PACKAGES: [&str; 7] = ["cli", "clocks", "filesystem", "http", "io", "random", "sockets"];
    let Some((package, rest)) = name.strip_prefix("wasi:").and_then(|rest| rest.split_once('/')) else {
        return false;
    };
    PACKAGES.contains(&package) && rest.contains("@0.2.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<ModuleShape, &str>) {
        let module = wat::parse_str(text).expect("the test's module is well formed");
        let found = accept(&module).map_err(|rejection| rejection.to_string());
        match (&found, expected) {
            (Ok(shape), Ok(expected)) => assert_eq!(*shape, expected, "{text}"),
            (Err(message), Err(part)) => assert!(message.contains(part), "{message}"),
            _ => panic!("{text}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn shapes_are_told_by_their_exports() {
        check(
            r#"(module (memory (export "memory") 1) (func (export "_start")))"#,
            Ok(ModuleShape::Command),
        );
        check(
            r#"(module (memory (export "memory") 1)
                (func (export "bowline_v1_reserve") (param i32) (result i32) i32.const 0)
                (func (export "bowline_v1_invoke") (param i32) (result i64) i64.const 0))"#,
            Ok(ModuleShape::Reactor),
        );
        check(
            r#"(component (instance $i) (export "wasi:http/incoming-handler@0.2.0" (instance $i)))"#,
            Ok(ModuleShape::HttpComponent),
        );
    }

    #[test]
    fn rejections_name_what_is_wrong() {
        check("(module)", Err("neither `_start`"));
        check("(component)", Err("must export `wasi:http"));
        check(r#"(module (func (export "_start")))"#, Err("does not export `memory`"));
        check(
            r#"(module (import "env" "abort" (func)) (memory (export "memory") 1) (func (export "_start")))"#,
            Err("`abort` from `env`"),
        );
        check(
            r#"(module (import "wasi_snapshot_preview1" "fd_teleport" (func))
                (memory (export "memory") 1) (func (export "_start")))"#,
            Err("`fd_teleport` from `wasi_snapshot_preview1`"),
        );
        check(
            r#"(module (memory (export "memory") 1 1 shared) (func (export "_start")))"#,
            Err("threads"),
        );
        check(
            r#"(module (memory (export "memory") i64 1) (func (export "_start")))"#,
            Err("not valid"),
        );
    }

    #[test]
    fn bytes_that_are_no_module_are_refused() {
        assert_eq!(accept(b""), Err(Rejection::NotWasm));
        assert_eq!(accept(b"(module)"), Err(Rejection::NotWasm));
        assert_eq!(accept(b"PK\x03\x04"), Err(Rejection::NotWasm));
        assert!(matches!(accept(b"\0asm\x01\0\0\0\xff"), Err(Rejection::Invalid(_))));
        assert!(matches!(accept(b"\0asm"), Err(Rejection::Invalid(_))));
    }
}
