//! Which proposals the pass takes, and by what name it refuses the others.

use wasmparser::{Encoding, Parser, Payload, Validator, WasmFeatures};

use crate::Refusal;

/// What the pass instruments.
pub(crate) const TAKEN: WasmFeatures = WasmFeatures::WASM2
    .union(WasmFeatures::TAIL_CALL)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::MULTI_MEMORY)
    .union(WasmFeatures::RELAXED_SIMD)
    .union(WasmFeatures::EXCEPTIONS)
    .union(WasmFeatures::MEMORY64);

/// Proposals that have a refusal of their own, in the order in which they are tried.
const NAMED: &[(WasmFeatures, Refusal)] = &[
    (WasmFeatures::THREADS, Refusal::Threads),
    (WasmFeatures::FUNCTION_REFERENCES, Refusal::TypedReferences),
    (
        WasmFeatures::FUNCTION_REFERENCES.union(WasmFeatures::GC),
        Refusal::GarbageCollection,
    ),
    (WasmFeatures::LEGACY_EXCEPTIONS, Refusal::OldExceptions),
];

/// Whether `module` is valid and uses only what the pass takes.
pub(crate) fn check(module: &[u8]) -> Result<(), Refusal> {
    if let Some(Ok(Payload::Version { encoding, .. })) = Parser::new(0).parse_all(module).next()
        && encoding == Encoding::Component
    {
        return Err(Refusal::Component);
    }
    let Err(error) = validate(module, TAKEN) else {
        return Ok(());
    };
    let named = NAMED
        .iter()
        .find(|(features, _)| validate(module, TAKEN.union(*features)).is_ok());
    if let Some((_, refusal)) = named {
        return Err(refusal.clone());
    }
    if validate(module, WasmFeatures::all()).is_ok() {
        return Err(Refusal::Proposal(error));
    }
    Err(Refusal::Invalid(error))
}

fn validate(module: &[u8], features: WasmFeatures) -> Result<(), String> {
    Validator::new_with_features(features)
        .validate_all(module)
        .map(|_| ())
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal_of(text: &str) -> Refusal {
        check(&wat::parse_str(text).unwrap()).unwrap_err()
    }

    #[test]
    fn what_is_not_taken_is_refused_by_name() {
        assert_eq!(refusal_of("(module (memory 1 1 shared))"), Refusal::Threads);
        let atomic = "(module (memory 1) (func (drop (i32.atomic.load (i32.const 0)))))";
        assert_eq!(refusal_of(atomic), Refusal::Threads);
        assert_eq!(refusal_of("(module (type (struct)))"), Refusal::GarbageCollection);
        let typed = "(module (type $t (func)) (func (param (ref $t)) (call_ref $t (local.get 0))))";
        assert_eq!(refusal_of(typed), Refusal::TypedReferences);
        assert_eq!(refusal_of("(component)"), Refusal::Component);
        let wide = "(module (func (result i64 i64) (i64.mul_wide_s (i64.const 1) (i64.const 1))))";
        assert!(matches!(refusal_of(wide), Refusal::Proposal(_)));
    }

    #[test]
    fn what_is_not_valid_is_refused_as_that() {
        assert!(matches!(
            refusal_of("(module (func (result i32)))"),
            Refusal::Invalid(_)
        ));
        assert!(matches!(check(b"nothing"), Err(Refusal::Invalid(_))));
    }

    #[test]
    fn control_what_is_taken_passes() {
        let text = "(module (memory i64 1) (memory 1) (tag $e) (table 1 externref)
            (func (result v128) (throw $e)) (func (return_call 0) (unreachable)))";
        let text = text.replace(
            "(func (return_call 0) (unreachable))",
            "(func (result v128) (return_call 0))",
        );
        assert_eq!(check(&wat::parse_str(&text).unwrap()), Ok(()));
    }
}
