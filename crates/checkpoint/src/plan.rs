//! The plan of a module: what the pass found, kept to instrument it, to check its checkpoints and to generate
//! continuations.

use std::sync::Arc;

use bowline_foundation::digest::Digest;

use crate::body::Body;
use crate::calls::Calls;
use crate::emit::{self, Instrumented, Needs, Switches};
use crate::frame::BASE;
use crate::outline::Outline;
use crate::segments::Segments;
use crate::{Identity, Layout, Options, PASS_VERSION, Place, Refusal, Site, Stop, features};

/// The smallest native frame of a call: the return address and the caller's frame pointer.
const NATIVE_FRAME_BYTES_MIN: u64 = 16;
const WASM_PAGE_BYTES: u64 = 64 * 1024;
/// All that 32-bit addresses reach.
const WASM_PAGES_MAX: u64 = 1 << 16;

/// A module that can be checkpointed.
///
/// A plan depends on the module and the options alone: any process makes the same one. It keeps the module's
/// bytes and what was found in them; the code of a function is read again when a continuation is made.
pub struct Plan {
    pub(crate) analysis: Analysis,
    identity: Identity,
    /// Of each defined function, of each of its places.
    layouts: Vec<Vec<Layout>>,
    /// The number of each defined function's first place.
    first_sites: Vec<u32>,
    needs: Needs,
}

/// What is known of a module, without the layouts.
pub(crate) struct Analysis {
    pub module: Arc<[u8]>,
    pub outline: Outline,
    pub calls: Calls,
    pub segments: Segments,
    pub switches: Switches,
    /// Functions that a reference may lead to, by rising index.
    pub references: Vec<u32>,
    pub options: Options,
}

impl Plan {
    /// Reads a module, or says why it cannot be checkpointed.
    pub fn new(module: impl Into<Arc<[u8]>>, options: Options) -> Result<Self, Refusal> {
        let module = module.into();
        let read = || {
            let analysis = Analysis::new(module.clone(), options)?;
            let bodies = 0..analysis.outline.bodies.len();
            let layouts = bodies.map(|index| analysis.body_at(index)?.layouts());
            let layouts = layouts.collect::<Result<Vec<_>, Refusal>>()?;
            let needs = Needs::of(&layouts, options)?;
            Ok(Self::of(analysis, layouts, needs))
        };
        read().or_else(|refusal| name(&module, refusal))
    }

    /// The same, and the instrumented module.
    pub fn instrument(module: impl Into<Arc<[u8]>>, options: Options) -> Result<(Self, Vec<u8>), Refusal> {
        let module = module.into();
        Self::read_and_write(module.clone(), options).or_else(|refusal| name(&module, refusal))
    }

    fn read_and_write(module: Arc<[u8]>, options: Options) -> Result<(Self, Vec<u8>), Refusal> {
        let analysis = Analysis::new(module, options)?;
        let mut layouts = Vec::with_capacity(analysis.outline.bodies.len());
        let mut instrumented = Instrumented::new(&analysis);
        let mut first_site = 0;
        for index in 0..analysis.outline.bodies.len() {
            let body = analysis.body_at(index)?;
            // Code that would save too much is refused before it is written.
            let places = body.layouts()?;
            instrumented.function(&body, first_site)?;
            first_site += count_of(&places);
            layouts.push(places);
        }
        let needs = Needs::of(&layouts, options)?;
        let code = instrumented.finish(needs);
        Ok((Self::of(analysis, layouts, needs), code))
    }

    fn of(analysis: Analysis, layouts: Vec<Vec<Layout>>, needs: Needs) -> Self {
        Self {
            first_sites: first_sites(&layouts),
            identity: Identity {
                module: Digest::of(&analysis.module),
                pass: PASS_VERSION,
                options: analysis.options,
            },
            analysis,
            layouts,
            needs,
        }
    }

    /// The module that continues a frame which stopped at `site`, `None` if there is no such place.
    pub fn continuation(&self, site: Site) -> Option<Vec<u8>> {
        let layout = self.layout(site.function, site.place)?;
        if site.stop == Stop::Inside && !matches!(layout.place, Place::Call(_)) {
            return None;
        }
        let first_site = self.first_sites[self.analysis.outline.body_index(site.function)];
        let continuation = emit::continuation(&self.analysis, site, first_site);
        Some(continuation.expect("the plan has read this function"))
    }

    /// What a frame of `function` holds at `place`; `None` if there is no such place.
    pub fn layout(&self, function: u32, place: u32) -> Option<&Layout> {
        let defined = function.checked_sub(self.analysis.outline.imported_functions)?;
        self.layouts.get(defined as usize)?.get(place as usize)
    }

    /// The function and the place that a number in the save memory means.
    pub(crate) fn place_of(&self, number: u32) -> Option<(u32, u32)> {
        let behind = self.first_sites.partition_point(|&first| first <= number);
        let body = behind.checked_sub(1)?;
        Some((
            self.analysis.outline.function_of_body(body),
            number - self.first_sites[body],
        ))
    }

    /// What checkpoints of this module bear.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Every way in which a frame of this module can have stopped.
    pub fn sites(&self) -> impl Iterator<Item = Site> {
        let functions = (self.analysis.outline.imported_functions..).zip(&self.layouts);
        functions.flat_map(|(function, layouts)| {
            (0..).zip(layouts).flat_map(move |(place, layout)| {
                let inside = matches!(layout.place, Place::Call(_)).then_some(Stop::Inside);
                let stops = [Some(Stop::Here), inside].into_iter().flatten();
                stops.map(move |stop| Site { function, place, stop })
            })
        })
    }

    /// How many places the module has.
    pub fn places(&self) -> usize {
        self.layouts.iter().map(Vec::len).sum()
    }

    /// How many functions the module defines, and how many of them have places.
    pub fn functions(&self) -> (usize, usize) {
        let with_places = self.layouts.iter().filter(|layouts| !layouts.is_empty());
        (self.layouts.len(), with_places.count())
    }

    /// The size of the save memory, which is reserved at first and filled by a stop only.
    pub fn save_memory_bytes(&self) -> u64 {
        self.needs.frames_pages * WASM_PAGE_BYTES
    }
}

impl Analysis {
    fn new(module: Arc<[u8]>, options: Options) -> Result<Self, Refusal> {
        let mut outline = Outline::read(&module)?;
        let calls = Calls::read(&module, &mut outline)?;
        Ok(Self {
            segments: Segments::of(&outline, &calls.touched),
            switches: Switches::of(&outline, &calls.called),
            references: outline.addressed.iter().copied().collect(),
            module,
            outline,
            calls,
            options,
        })
    }

    /// Reads the code of the function that is the `index`th one defined.
    pub(crate) fn body_at(&self, index: usize) -> Result<Body<'_>, Refusal> {
        Body::read(&self.module, &self.outline, &self.calls, index)
    }

    /// Reads the code of a defined function.
    pub(crate) fn body_of(&self, function: u32) -> Result<Body<'_>, Refusal> {
        self.body_at(self.outline.body_index(function))
    }

    /// The place of a function in the table of functions.
    pub(crate) fn reference_place(&self, function: u32) -> u32 {
        let place = self.references.binary_search(&function);
        let place = place.expect("every function that code refers to is in the table");
        u32::try_from(place).expect("a module has fewer than 2^32 functions")
    }
}

impl Needs {
    fn of(layouts: &[Vec<Layout>], options: Options) -> Result<Self, Refusal> {
        let all = || layouts.iter().flatten();
        Ok(Self {
            frames_pages: frames_pages(all().map(Layout::frame_bytes).max(), options.stack_bytes)?,
            externs: all().any(|layout| layout.values.contains(&crate::ValueType::Extern)),
        })
    }
}

/// What makes a module invalid comes before what else is refused, and has a name where it is a proposal.
fn name<V>(module: &[u8], refusal: Refusal) -> Result<V, Refusal> {
    features::check(module)?;
    Err(refusal)
}

/// Places are numbered through the module.
fn first_sites(layouts: &[Vec<Layout>]) -> Vec<u32> {
    let mut next = 0;
    let mut first = |places: &Vec<Layout>| {
        next += count_of(places);
        next - count_of(places)
    };
    layouts.iter().map(&mut first).collect()
}

fn count_of(places: &[Layout]) -> u32 {
    u32::try_from(places.len()).expect("code has fewer than 2^32 places")
}

/// Pages that hold the frames of any stack of `stack_bytes`: of the smallest native frames, each saving as
/// much as the largest one does.
fn frames_pages(largest_frame_bytes: Option<u32>, stack_bytes: u32) -> Result<u64, Refusal> {
    let frames = u64::from(stack_bytes) / NATIVE_FRAME_BYTES_MIN + 1;
    let frame_bytes = largest_frame_bytes.unwrap_or(0);
    let bytes = u64::from(BASE) + frames * u64::from(frame_bytes);
    let pages = bytes.div_ceil(WASM_PAGE_BYTES);
    if pages > WASM_PAGES_MAX {
        return Err(Refusal::FramesTooLarge {
            frame_bytes,
            stack_bytes,
        });
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_of(text: &str) -> Result<Plan, Refusal> {
        Plan::new(wat::parse_str(text).unwrap(), Options::default())
    }

    #[test]
    fn the_save_memory_follows_the_stack_and_the_largest_frame() {
        assert_eq!(frames_pages(None, 1 << 20), Ok(1));
        assert_eq!(frames_pages(Some(100), 512 * 1024), Ok(51));
        assert_eq!(frames_pages(Some(100), 1024 * 1024), Ok(101));
    }

    /// A stack whose frames do not fit what 32 bits reach could not be saved to its end.
    #[test]
    fn frames_that_no_save_memory_holds_are_refused() {
        let (frame_bytes, stack_bytes) = (65_536, 1 << 20);
        assert_eq!(
            frames_pages(Some(frame_bytes), stack_bytes),
            Err(Refusal::FramesTooLarge {
                frame_bytes,
                stack_bytes
            })
        );
        assert_eq!(frames_pages(Some(frame_bytes - 2), stack_bytes), Ok(WASM_PAGES_MAX));
        let locals = " i64".repeat(9_000);
        let uses: String = (0..9_000).map(|local| format!("(drop (local.get {local}))")).collect();
        let text = format!("(module (func (local{locals}) (loop (br_if 0 (i32.const 0))) {uses}))");
        let module = wat::parse_str(text).unwrap();
        let refused = Plan::new(
            module.as_slice(),
            Options {
                stack_bytes,
                ..Options::default()
            },
        );
        assert!(matches!(refused.err(), Some(Refusal::FramesTooLarge { .. })));
        assert_eq!(Plan::new(module, Options::default()).err(), None, "a smaller stack");
    }

    #[test]
    fn only_what_is_needed_later_is_saved() {
        let plan = plan_of(
            "(module (func (param $n i32) (param $unused i64) (result i32) (local $sum i32) (local $dead f64)
                (loop
                    (local.set $dead (f64.const 1))
                    (local.set $sum (i32.add (local.get $sum) (local.get $n)))
                    (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
                (local.get $sum)))",
        )
        .unwrap();
        let layout = plan.layout(0, 0).unwrap();
        assert_eq!(layout.place, Place::Loop);
        assert_eq!(layout.values, [crate::ValueType::I32, crate::ValueType::I32]);
        assert_eq!(plan.layout(0, 1), None);
        assert_eq!(plan.layout(1, 0), None);
    }

    #[test]
    fn state_of_others_is_refused() {
        let refusal = |text| plan_of(text).err();
        let imported = |what| Some(Refusal::ImportedState(what));
        assert_eq!(
            refusal("(module (import \"a\" \"b\" (memory 1)))"),
            imported("a memory")
        );
        assert_eq!(
            refusal("(module (import \"a\" \"b\" (table 1 funcref)))"),
            imported("a table")
        );
        assert_eq!(
            refusal("(module (import \"a\" \"b\" (global (mut i32))))"),
            imported("a mutable global")
        );
        assert_eq!(refusal("(module (import \"a\" \"b\" (global i32)))"), None);
        assert_eq!(
            refusal("(module (func (export \"ck:start\")))"),
            Some(Refusal::ReservedName("ck:start".to_owned()))
        );
        assert_eq!(
            refusal("(module (global exnref (ref.null exn)))"),
            Some(Refusal::StoredException)
        );
    }

    #[test]
    fn an_exception_that_would_have_to_be_saved_is_refused() {
        let text = |late: &str| {
            format!(
                "(module (tag $e) (func $wait (loop (br_if 0 (i32.const 0))))
                    (func (local $caught exnref)
                        (block $c (result exnref) (try_table (catch_all_ref $c) (throw $e)) (unreachable))
                        (local.set $caught) (call $wait) {late}))"
            )
        };
        assert_eq!(
            plan_of(&text("(throw_ref (local.get $caught))")).err(),
            Some(Refusal::LiveException { function: 1 })
        );
        assert_eq!(plan_of(&text("")).err(), None);
    }

    #[test]
    fn an_instrumented_module_is_refused_a_second_time() {
        let module = wat::parse_str("(module (func (loop (br_if 0 (i32.const 0)))))").unwrap();
        let (_, instrumented) = Plan::instrument(module, Options::default()).unwrap();
        let again = Plan::new(instrumented, Options::default());
        assert_eq!(again.err(), Some(Refusal::Threads));
    }
}
