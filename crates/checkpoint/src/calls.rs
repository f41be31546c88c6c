//! Who calls whom, and so which functions may be stopped while they run or while they call.
//!
//! A function may be stopped if it has a loop, if it lies on a cycle of calls, if it does more than a bounded amount of
//! work without either, or if it calls such a function. Any other function ends soon. A call through a table may reach
//! every function of its type that a reference can lead to.

use std::collections::{BTreeSet, HashMap};

use wasmparser::{FuncType, Operator, VisitOperator, VisitSimdOperator};

use crate::Refusal;
use crate::body::Counter;
use crate::outline::{Outline, invalid};

/// Operators that may be executed between two polls. Calls count with what the callee may do before it polls, so
/// this is met by functions that call each other many times on each of many levels.
const WORK_MAX: u64 = 1 << 17;
/// The same of a function on a cycle of calls, of which there may be one for each frame of a stack that returns.
const WORK_ON_CYCLE_MAX: u64 = 1 << 12;
/// What counts as so many: an operator that goes over much memory, and a call of the host.
const BULK_WORK: u64 = WORK_ON_CYCLE_MAX;
/// The same of what looks for a handler.
const THROW_WORK: u64 = 1 << 10;

/// What the code of all functions says about the module.
#[derive(Default)]
pub(crate) struct Calls {
    /// Functions in which a frame may be found when the guest stops.
    pub may_stop: Vec<bool>,
    /// Some function of each cycle of calls, and those that do too much.
    pub polls_at_entry: Vec<bool>,
    pub work: Vec<Work>,
    /// For each type, whether a call through a reference of that type may be stopped inside.
    pub indirect_may_stop: Vec<bool>,
    /// Functions that such functions call by their index.
    pub called: BTreeSet<u32>,
    /// Some function ends with a call that takes its frame's place.
    pub has_tail_calls: bool,
    pub touched: Touched,
}

/// How much a function would do between two polls, if none but loops polled, and at their entry the functions that cut a cycle of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Little,
    /// Too much for each frame of a stack that returns. It polls before it returns.
    Much,
    /// Too much at once. It polls at its entry and behind all that may take long.
    TooMuch,
}

/// State that code changes, as far as it matters what is changed.
#[derive(Default)]
pub(crate) struct Touched {
    pub tables: BTreeSet<u32>,
    pub dropped_data: BTreeSet<u32>,
    pub dropped_elements: BTreeSet<u32>,
    /// Segment and memory of each `memory.init`.
    pub memory_inits: BTreeSet<(u32, u32)>,
    /// Segment and table of each `table.init`.
    pub table_inits: BTreeSet<(u32, u32)>,
}

/// Edges of the graph. Nodes are the functions, and after them one for each distinct type, which leads to all
/// that a call of that type may reach.
struct Graph {
    edges: Vec<Vec<u32>>,
    loops: Vec<bool>,
    /// What each function does from its entry to its return, or to a loop that polls in each round, without what it calls.
    work: Vec<u64>,
    /// Functions that throw by themselves.
    throws: Vec<bool>,
    /// Some function catches.
    catches: bool,
    /// Functions that may end with a call that takes their frame's place.
    tail_calls: Vec<bool>,
    rounds: ShortRounds,
    /// The node of each type of the module.
    type_nodes: Vec<u32>,
}

impl Calls {
    /// Reads the code of all functions, which need not be valid; adds what `ref.func` names to the outline.
    pub(crate) fn read(module: &[u8], outline: &mut Outline) -> Result<Self, Refusal> {
        let mut reader = Reader {
            function: 0,
            functions: outline.functions.len(),
            types: outline.types.len(),
            graph: Graph::new(outline),
            touched: Touched::default(),
            addressed: BTreeSet::new(),
            is_out_of_range: false,
        };
        for (index, code) in outline.bodies.iter().enumerate() {
            reader.function = outline.function_of_body(index) as usize;
            let mut operators = code.body(module).get_operators_reader().map_err(invalid)?;
            while !operators.eof() {
                operators.visit_operator(&mut reader).map_err(invalid)?;
            }
            operators.finish().map_err(invalid)?;
        }
        let Reader {
            mut graph,
            touched,
            addressed,
            is_out_of_range,
            ..
        } = reader;
        if is_out_of_range {
            return Err(Refusal::Invalid(
                "code names a function or a type that is not there".to_owned(),
            ));
        }
        outline.addressed.extend(addressed);
        graph.connect_types(outline);
        Ok(graph.judge(outline, touched))
    }
}

/// Sees the operators of all functions.
struct Reader {
    /// The function whose code it is.
    function: usize,
    functions: usize,
    types: usize,
    graph: Graph,
    touched: Touched,
    addressed: BTreeSet<u32>,
    /// Some operator names a function or a type that there is not.
    is_out_of_range: bool,
}

impl Reader {
    // Each operator has a function of its own that calls this one, where it is clear what it has to do with.
    #[inline(always)]
    fn see(&mut self, operator: &Operator<'_>) {
        let is_there = match *operator {
            Operator::Call { function_index }
            | Operator::ReturnCall { function_index }
            | Operator::RefFunc { function_index } => (function_index as usize) < self.functions,
            Operator::CallIndirect { type_index, .. } | Operator::ReturnCallIndirect { type_index, .. } => {
                (type_index as usize) < self.types
            }
            _ => true,
        };
        if !is_there {
            self.is_out_of_range = true;
            return;
        }
        if let Operator::RefFunc { function_index } = *operator {
            self.addressed.insert(function_index);
        }
        self.graph.see(self.function, operator);
        self.touched.see(operator);
    }
}

macro_rules! see_each {
    ($(@$proposal:ident $operator:ident $({ $($part:ident: $type:ty),* })? => $visit:ident ($($more:tt)*))*) => {
        $(
            fn $visit(&mut self $($(, $part: $type)*)?) {
                self.see(&Operator::$operator $({ $($part),* })?);
            }
        )*
    };
}

impl<'a> VisitOperator<'a> for Reader {
    type Output = ();

    fn simd_visitor(&mut self) -> Option<&mut dyn VisitSimdOperator<'a, Output = ()>> {
        Some(self)
    }

    wasmparser::for_each_visit_operator!(see_each);
}

impl VisitSimdOperator<'_> for Reader {
    wasmparser::for_each_visit_simd_operator!(see_each);
}

impl Graph {
    fn new(outline: &Outline) -> Self {
        let functions = outline.functions.len();
        let mut nodes: HashMap<&FuncType, u32> = HashMap::new();
        let mut next = u32::try_from(functions).expect("a module has fewer than 2^32 functions");
        let mut type_nodes = Vec::new();
        for ty in &outline.types {
            let node = *nodes.entry(ty).or_insert_with(|| {
                next += 1;
                next - 1
            });
            type_nodes.push(node);
        }
        Self {
            edges: vec![Vec::new(); next as usize],
            loops: vec![false; functions],
            work: (0..outline.functions.len())
                .map(|function| {
                    if function < outline.imported_functions as usize {
                        BULK_WORK
                    } else {
                        0
                    }
                })
                .collect(),
            throws: vec![false; next as usize],
            catches: false,
            tail_calls: vec![false; functions],
            rounds: ShortRounds::default(),
            type_nodes,
        }
    }

    #[inline(always)]
    fn see(&mut self, function: usize, operator: &Operator<'_>) {
        let work = match operator {
            Operator::Throw { .. } | Operator::ThrowRef => THROW_WORK,
            _ if is_bulk(operator) => BULK_WORK,
            _ => 1,
        };
        self.work[function] += work + self.rounds.see(operator);
        match *operator {
            Operator::Loop { .. } => self.loops[function] = true,
            Operator::Throw { .. } | Operator::ThrowRef => self.throws[function] = true,
            Operator::TryTable { .. } => self.catches = true,
            Operator::Call { function_index } => self.edges[function].push(function_index),
            Operator::CallIndirect { type_index, .. } => {
                let node = self.type_nodes[type_index as usize];
                self.edges[function].push(node);
            }
            Operator::ReturnCall { function_index } => {
                self.tail_calls[function] = true;
                self.edges[function].push(function_index);
            }
            Operator::ReturnCallIndirect { type_index, .. } => {
                self.tail_calls[function] = true;
                let node = self.type_nodes[type_index as usize];
                self.edges[function].push(node);
            }
            _ => {}
        }
    }

    fn connect_types(&mut self, outline: &Outline) {
        for &function in &outline.addressed {
            let node = self.type_nodes[outline.functions[function as usize] as usize] as usize;
            self.edges[node].push(function);
        }
    }

    fn judge(self, outline: &Outline, touched: Touched) -> Calls {
        let functions = outline.functions.len();
        let cycles = Cycles::of(&self.edges, functions);
        let (work, polls_at_entry) = self.works(&cycles);
        let mut may_stop = cycles.on_cycle;
        for (node, &has_loop) in self.loops.iter().enumerate() {
            may_stop[node] |= has_loop || polls_at_entry[node];
        }
        spread_to_callers(&self.edges, &mut may_stop);
        let indirect_may_stop = self.type_nodes.iter().map(|&node| may_stop[node as usize]).collect();
        may_stop.truncate(functions);
        let callers = self.edges.iter().zip(&may_stop).filter(|(_, may_stop)| **may_stop);
        let called = callers.flat_map(|(callees, _)| callees.iter().copied());
        Calls {
            called: called.filter(|&callee| (callee as usize) < functions).collect(),
            has_tail_calls: self.tail_calls.contains(&true),
            may_stop,
            polls_at_entry,
            work,
            indirect_may_stop,
            touched,
        }
    }

    /// Where nobody catches, an exception ends the guest. Else those poll at their entry that throw, since what is caught came
    /// through no place behind a call.
    fn works(&self, cycles: &Cycles) -> (Vec<Work>, Vec<bool>) {
        let functions = self.work.len();
        let mut works = vec![Work::Little; functions];
        let mut polls: Vec<bool> = (cycles.cut.iter().zip(&self.throws))
            .map(|(cuts, throws)| *cuts || (self.catches && *throws))
            .collect();
        // Functions that an exception may leave, or end.
        let mut is_left = self.throws.clone();
        spread_to_callers(&self.edges, &mut is_left);
        let mut done = vec![Done::default(); self.edges.len()];
        // Edges that close a cycle lead from or to a function that cuts it: what these are for others is known before.
        let is_cut = |node: usize| cycles.cut.get(node) == Some(&true);
        let in_order = || cycles.callees_first.iter().copied();
        for node in in_order()
            .filter(|&node| !is_cut(node))
            .chain(in_order().filter(|&node| is_cut(node)))
        {
            let called = self.edges[node].iter().map(|&callee| done[callee as usize]);
            if node >= functions {
                done[node] = called.fold(Done::default(), Done::or);
                continue;
            }
            let called = called.fold(Done::default(), Done::and);
            let whole = self.work[node].saturating_add(called.whole);
            let begun = whole.saturating_add(called.begun);
            let may_miss_its_end = self.tail_calls[node] || (self.catches && is_left[node]);
            works[node] = match () {
                () if whole > WORK_MAX => Work::TooMuch,
                () if whole <= WORK_ON_CYCLE_MAX || !cycles.on_cycle[node] => Work::Little,
                () if may_miss_its_end => Work::TooMuch,
                () => Work::Much,
            };
            polls[node] |= works[node] == Work::TooMuch || begun > WORK_MAX;
            if !polls[node] {
                done[node] = match works[node] {
                    Work::Much => Done { whole: 0, begun },
                    _ if called.begun == 0 => Done { whole, begun: 0 },
                    _ => Done { whole, begun },
                };
            }
        }
        (works, polls)
    }
}

/// What a call may do without a poll, besides what its caller does.
#[derive(Clone, Copy, Default)]
struct Done {
    /// From its beginning to its end.
    whole: u64,
    /// From its beginning to its poll.
    begun: u64,
}

impl Done {
    /// What both do, one after the other. Whoever polls, later ones begin anew.
    fn and(self, next: Self) -> Self {
        Self {
            whole: self.whole.saturating_add(next.whole),
            begun: self.begun.max(next.begun),
        }
    }

    /// What one of both may do.
    fn or(self, other: Self) -> Self {
        Self {
            whole: self.whole.max(other.whole),
            begun: self.begun.max(other.begun),
        }
    }
}

/// Loops that may poll once in a few of their rounds, since these are short: nothing else is known yet of what counts them.
#[derive(Default)]
struct ShortRounds {
    /// The innermost loop around, if it may be such: how many blocks inside it are open, and how many operators it has so far.
    innermost: Option<(usize, usize)>,
}

impl ShortRounds {
    /// What is done again where a loop ends with this operator.
    #[inline(always)]
    fn see(&mut self, operator: &Operator<'_>) -> u64 {
        if matches!(operator, Operator::Loop { .. }) {
            self.innermost = Some((0, 0));
            return 0;
        }
        let Some((open, operators)) = &mut self.innermost else {
            return 0;
        };
        *operators += 1;
        match operator {
            Operator::Block { .. } | Operator::If { .. } | Operator::TryTable { .. } => *open += 1,
            Operator::End if *open > 0 => *open -= 1,
            Operator::End => {
                let again = *operators as u64 * (u64::from(Counter::ROUNDS) - 1);
                self.innermost = None;
                return again;
            }
            _ => {}
        }
        if *operators > Counter::STEPS_MAX + 1 || !is_short(operator) {
            self.innermost = None;
        }
        0
    }
}

/// Whether an operator takes no longer than any other.
pub(crate) fn is_short(operator: &Operator<'_>) -> bool {
    let calls = matches!(
        operator,
        Operator::Call { .. } | Operator::CallIndirect { .. } | Operator::CallRef { .. }
    );
    !calls && !is_bulk(operator)
}

/// Whether an operator may go over as much as a memory or a table holds.
pub(crate) fn is_bulk(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::MemoryCopy { .. }
            | Operator::MemoryFill { .. }
            | Operator::MemoryInit { .. }
            | Operator::MemoryGrow { .. }
            | Operator::TableCopy { .. }
            | Operator::TableFill { .. }
            | Operator::TableInit { .. }
            | Operator::TableGrow { .. }
    )
}

impl Touched {
    #[inline(always)]
    fn see(&mut self, operator: &Operator<'_>) {
        match *operator {
            Operator::TableSet { table } | Operator::TableGrow { table } | Operator::TableFill { table } => {
                self.tables.insert(table);
            }
            Operator::TableCopy { dst_table, .. } => {
                self.tables.insert(dst_table);
            }
            Operator::TableInit { elem_index, table } => {
                self.tables.insert(table);
                self.table_inits.insert((elem_index, table));
            }
            Operator::MemoryInit { data_index, mem } => {
                self.memory_inits.insert((data_index, mem));
            }
            Operator::DataDrop { data_index } => {
                self.dropped_data.insert(data_index);
            }
            Operator::ElemDrop { elem_index } => {
                self.dropped_elements.insert(elem_index);
            }
            _ => {}
        }
    }
}

/// Marks everything that leads to something marked.
fn spread_to_callers(edges: &[Vec<u32>], marked: &mut [bool]) {
    let mut callers: Vec<Vec<u32>> = vec![Vec::new(); edges.len()];
    for (caller, callees) in (0..).zip(edges) {
        for &callee in callees {
            callers[callee as usize].push(caller);
        }
    }
    let mut open: Vec<usize> = (0..edges.len()).filter(|&node| marked[node]).collect();
    while let Some(node) = open.pop() {
        for &caller in &callers[node] {
            if !marked[caller as usize] {
                marked[caller as usize] = true;
                open.push(caller as usize);
            }
        }
    }
}

/// The cycles of a graph (Tarjan's algorithm, without recursion).
struct Cycles {
    /// Nodes on some cycle.
    on_cycle: Vec<bool>,
    /// Of the first nodes, those without which no cycle is left.
    cut: Vec<bool>,
    /// All nodes, each behind those that its edges lead to, but for edges that close a cycle.
    callees_first: Vec<usize>,
}

impl Cycles {
    /// Each cycle has one of the first `cuttable` nodes: no edge leads from one of the others to such.
    fn of(edges: &[Vec<u32>], cuttable: usize) -> Self {
        let mut search = Search::new(edges, cuttable);
        for node in 0..edges.len() {
            if search.order[node] == UNSEEN {
                search.explore(node);
            }
        }
        search.found
    }
}

const UNSEEN: usize = usize::MAX;

struct Search<'g> {
    edges: &'g [Vec<u32>],
    order: Vec<usize>,
    lowest: Vec<usize>,
    /// Nodes whose edges are being followed.
    is_open: Vec<bool>,
    on_stack: Vec<bool>,
    stack: Vec<usize>,
    next: usize,
    found: Cycles,
}

impl<'g> Search<'g> {
    fn new(edges: &'g [Vec<u32>], cuttable: usize) -> Self {
        let count = edges.len();
        Self {
            edges,
            order: vec![UNSEEN; count],
            lowest: vec![UNSEEN; count],
            is_open: vec![false; count],
            on_stack: vec![false; count],
            stack: Vec::new(),
            next: 0,
            found: Cycles {
                on_cycle: vec![false; count],
                cut: vec![false; cuttable],
                callees_first: Vec::with_capacity(count),
            },
        }
    }

    fn enter(&mut self, node: usize) {
        self.order[node] = self.next;
        self.lowest[node] = self.next;
        self.next += 1;
        self.is_open[node] = true;
        self.on_stack[node] = true;
        self.stack.push(node);
    }

    fn explore(&mut self, root: usize) {
        self.enter(root);
        let mut path = vec![(root, 0)];
        while let Some((node, edge)) = path.last_mut() {
            let node = *node;
            let Some(&to) = self.edges[node].get(*edge) else {
                path.pop();
                self.leave(node);
                if let Some((parent, _)) = path.last() {
                    self.lowest[*parent] = self.lowest[*parent].min(self.lowest[node]);
                }
                continue;
            };
            *edge += 1;
            let to = to as usize;
            if self.order[to] == UNSEEN {
                self.enter(to);
                path.push((to, 0));
            } else if self.on_stack[to] {
                self.lowest[node] = self.lowest[node].min(self.order[to]);
                if self.is_open[to] {
                    let cut = if to < self.found.cut.len() { to } else { node };
                    self.found.cut[cut] = true;
                }
            }
        }
    }

    /// Takes a finished component off the stack.
    fn leave(&mut self, node: usize) {
        self.is_open[node] = false;
        self.found.callees_first.push(node);
        if self.lowest[node] != self.order[node] {
            return;
        }
        let start = self.stack.iter().rposition(|&other| other == node);
        let component = self
            .stack
            .split_off(start.expect("the root of a component is on the stack"));
        let alone = component.len() == 1 && !self.edges[node].iter().any(|&to| to as usize == node);
        for &member in &component {
            self.on_stack[member] = false;
            self.found.on_cycle[member] = !alone;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls_of(text: &str) -> Calls {
        let module = wat::parse_str(text).unwrap();
        let mut outline = Outline::read(&module).unwrap();
        Calls::read(&module, &mut outline).unwrap()
    }

    #[test]
    fn loops_cycles_and_their_callers_may_stop() {
        let calls = calls_of(
            "(module
                (func $short)
                (func $loops (loop (br_if 0 (i32.const 0))))
                (func $calls (call $loops))
                (func $even (call $odd))
                (func $odd (call $even))
                (func $calls_short (call $short)))",
        );
        assert_eq!(calls.may_stop, [false, true, true, true, true, false]);
        assert_eq!(calls.polls_at_entry, [false, false, false, true, false, false]);
    }

    #[test]
    fn a_call_through_a_table_reaches_what_has_its_type_and_an_address() {
        let calls = calls_of(
            "(module
                (table 2 funcref) (elem (i32.const 0) $loops)
                (func $loops (param i32) (loop (br_if 0 (i32.const 0))))
                (func $hidden (param i64) (loop (br_if 0 (i32.const 0))))
                (func $reaches (call_indirect (param i32) (i32.const 1) (i32.const 0)))
                (func $does_not (call_indirect (param i64) (i64.const 1) (i32.const 0))))",
        );
        assert_eq!(calls.may_stop, [true, true, true, false]);
    }

    /// Forty functions that each call the next one twice would run for hours without a loop.
    #[test]
    fn functions_that_call_others_many_times_on_many_levels_poll_at_their_entry() {
        let doubling = |levels: usize| {
            let calls = (1..levels).map(|level| format!("(func (call {level}) (call {level}))"));
            format!("(module {} (func))", calls.collect::<String>())
        };
        let calls = calls_of(&doubling(40));
        assert!(calls.polls_at_entry[39 - 16], "after some 100,000 operators");
        assert_eq!(calls.polls_at_entry.iter().filter(|polls| **polls).count(), 2);
        assert!(calls.may_stop[0] && !calls.may_stop[39]);
        let calls = calls_of(&doubling(10));
        assert!(calls.may_stop.iter().all(|may_stop| !may_stop), "this ends soon");
    }

    /// Each kind of work beside a little less of it, in a function that calls itself.
    #[test]
    fn functions_on_cycles_do_much_by_any_kind_of_work() {
        let work = |work: &str| {
            let text = format!(
                "(module (import \"a\" \"b\" (func $host)) (memory 1) (func $self (local $i i32) (call $self) {work})
                    (func $short) (func $once (call $host)))"
            );
            calls_of(&text).work[1]
        };
        let round = |steps| format!("(loop {})", "(nop)".repeat(steps));
        let pairs = [
            ("(nop)".repeat(4_000), "(nop)".repeat(4_096)),
            ("(call $short)".repeat(2_000), "(call $short)".repeat(2_048)),
            (round(60), round(60).repeat(2)),
            // These poll in each round.
            (round(70).repeat(40), round(60).repeat(2)),
            ("(loop (call $short))".repeat(60), "(call $once)".to_owned()),
            (String::new(), "(call $host)".to_owned()),
            (
                "(drop (memory.size))".to_owned(),
                "(drop (memory.grow (i32.const 1)))".to_owned(),
            ),
        ];
        for (little, much) in pairs {
            assert_eq!(work(&little), Work::Little, "{little:.80}");
            assert_eq!(work(&much), Work::Much, "{much:.80}");
        }
        assert_eq!(work(&"(nop)".repeat(1 << 17)), Work::TooMuch);
        assert_eq!(work(&"(call $host)".repeat(32)), Work::TooMuch);
    }

    /// Each function of a chain polls when it returns, and none of them before the last one does.
    #[test]
    fn a_chain_that_goes_down_polls_at_some_entries() {
        let chain = |levels: usize| {
            let level = |level: usize| format!("(func (call {levels}) (call {}))", (level + 1) % levels);
            let (chain, heavy) = ((0..levels).map(level).collect::<String>(), "(nop)".repeat(5_000));
            calls_of(&format!("(module {chain} (func {heavy}))"))
        };
        let calls = chain(100);
        assert!(calls.work[..100].iter().all(|work| *work == Work::Much));
        let polls = |levels| chain(levels).polls_at_entry.iter().filter(|polls| **polls).count();
        assert_eq!(polls(20), 1, "who cuts the cycle");
        assert_eq!(polls(100), 4, "and after some 130,000 operators each");
    }

    /// Who closes a cycle by a call through a table is judged by all that the table leads to.
    #[test]
    fn work_behind_a_table_counts_where_it_closes_a_cycle() {
        let calls = calls_of(&format!(
            "(module (type $t (func)) (table 2 funcref) (elem (i32.const 0) $n $heavy)
                (func $first (call_indirect (type $t) (i32.const 0)))
                (func $heavy (type $t) {})
                (func $n (type $t) {}))",
            "(nop)".repeat(1_000),
            "(call_indirect (type $t) (i32.const 1))".repeat(10)
        ));
        assert_eq!(calls.work[2], Work::Much);
        assert!(calls.polls_at_entry[2], "the control: it cuts the cycle");
    }

    #[test]
    fn who_may_end_with_a_tail_call_polls_on_its_way() {
        let work = |end: &str| {
            let text = format!("(module (func (call 0) {} {end}) (func))", "(nop)".repeat(4_096));
            calls_of(&text).work[0]
        };
        assert_eq!(work("(return_call 1)"), Work::TooMuch);
        assert_eq!(work("(call 1)"), Work::Much);
    }

    /// What an exception leaves does not come to a place before its end, and who catches it to none behind the call.
    #[test]
    fn who_throws_polls_at_its_entry_and_who_is_left_on_its_way() {
        let calls = |rest: &str| {
            let nops = "(nop)".repeat(4_096);
            calls_of(&format!(
                "(module (tag $e) (func (call 0) (call 1) {nops}) (func (throw $e)) (func (call 2) {nops}) {rest})"
            ))
        };
        let caught = calls("(func (block $b (try_table (catch_all $b) (call 0))))");
        assert_eq!(caught.work[..3], [Work::TooMuch, Work::Little, Work::Much]);
        assert!(caught.polls_at_entry[1]);
        let fatal = calls("");
        assert_eq!(fatal.work, [Work::Much, Work::Little, Work::Much]);
        assert!(!fatal.polls_at_entry[1]);
    }

    /// A cycle through a reference is cut where it is called.
    #[test]
    fn one_function_of_each_cycle_polls_at_its_entry() {
        let calls = calls_of(
            "(module
                (table 1 funcref) (elem (i32.const 0) $even)
                (func $even (param i32) (call $odd))
                (func $odd (call_indirect (param i32) (i32.const 1) (i32.const 0)) (call $loops))
                (func $loops (loop (br_if 0 (i32.const 0))))
                (func $self (call $self) (call $even (i32.const 0))))",
        );
        assert_eq!(calls.polls_at_entry.iter().filter(|polls| **polls).count(), 2);
        assert!(calls.polls_at_entry[0] || calls.polls_at_entry[1]);
        assert!(calls.polls_at_entry[3]);
    }

    /// Whatever the edges, what is left without the nodes that cut has no cycle; and each such node lies on one.
    #[test]
    fn no_cycle_is_left_between_cuts() {
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..2_000 {
            let (functions, types) = (1 + random(12) as usize, random(4) as usize);
            let nodes = functions + types;
            let edges: Vec<Vec<u32>> = (0..nodes)
                .map(|node| {
                    let targets = if node < functions { nodes } else { functions };
                    (0..random(4)).map(|_| random(targets as u64) as u32).collect()
                })
                .collect();
            let cycles = Cycles::of(&edges, functions);
            let left: Vec<Vec<u32>> = (0..nodes)
                .map(|node| match cycles.cut.get(node) {
                    Some(true) => Vec::new(),
                    _ => edges[node].clone(),
                })
                .collect();
            assert!(!Cycles::of(&left, functions).on_cycle.contains(&true), "{edges:?}");
            assert!(
                (0..functions).all(|node| !cycles.cut[node] || cycles.on_cycle[node]),
                "{edges:?}"
            );
        }
    }

    #[test]
    fn functions_that_call_each_other_as_their_last_act_are_on_a_cycle() {
        let calls = calls_of(
            "(module (func $a (return_call $b)) (func $b (return_call $a)) (func $c (return_call $a))
                (func $d (call $d)))",
        );
        assert_eq!(calls.polls_at_entry, [true, false, false, true]);
        assert_eq!(calls.may_stop, [true; 4]);
    }
}
