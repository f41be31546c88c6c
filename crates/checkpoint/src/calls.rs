//! Who calls whom, and so which functions may be stopped while they run or while they call.
//!
//! A function may be stopped if it has a loop, if it lies on a cycle of calls, if it does more than a bounded amount of
//! work without either, or if it calls such a function. Any other function ends soon. A call through a table may reach
//! every function of its type that a reference can lead to.

use std::collections::{BTreeSet, HashMap};

use wasmparser::{FuncType, Operator};

use crate::Refusal;
use crate::outline::{Outline, invalid};

/// Operators that may be executed between two polls. Calls that do not poll themselves count with what they may do, so
/// this is met by functions that call each other many times on each of many levels. Steps of loops that poll once in a few
/// rounds are executed up to as many times.
const WORK_MAX: u64 = 1 << 17;
/// The same of a function on a cycle of calls, which may be met once for each frame of a stack.
const WORK_ON_CYCLE_MAX: u64 = 1 << 14;

/// What the code of all functions says about the module.
#[derive(Default)]
pub(crate) struct Calls {
    /// Functions in which a frame may be found when the guest stops.
    pub may_stop: Vec<bool>,
    /// Functions that call themselves over and over without growing the stack, and those that do much.
    pub polls_at_entry: Vec<bool>,
    /// Of each function, on which cycle of calls it lies: functions of one number can reach each other.
    component: Vec<u32>,
    /// The same of each type, for calls through references.
    indirect_component: Vec<u32>,
    /// For each type, whether a call through a reference of that type may be stopped inside.
    pub indirect_may_stop: Vec<bool>,
    /// Functions that such functions call by their index.
    pub called: BTreeSet<u32>,
    /// Some function ends with a call that takes its frame's place.
    pub has_tail_calls: bool,
    pub touched: Touched,
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
    tail_edges: Vec<Vec<u32>>,
    loops: Vec<bool>,
    /// How many operators each function has.
    operators: Vec<u64>,
    has_tail_calls: bool,
    /// The node of each type of the module.
    type_nodes: Vec<u32>,
}

impl Calls {
    /// Reads the code of all functions; adds what `ref.func` names to the outline.
    pub(crate) fn read(module: &[u8], outline: &mut Outline) -> Result<Self, Refusal> {
        let mut graph = Graph::new(outline);
        let mut touched = Touched::default();
        let mut addressed = BTreeSet::new();
        for (index, code) in outline.bodies.iter().enumerate() {
            let function = outline.function_of_body(index) as usize;
            let mut reader = code.body(module).get_operators_reader().map_err(invalid)?;
            while !reader.eof() {
                let operator = reader.read().map_err(invalid)?;
                if let Operator::RefFunc { function_index } = operator {
                    addressed.insert(function_index);
                }
                graph.see(function, &operator);
                touched.see(&operator);
            }
        }
        outline.addressed.extend(addressed);
        graph.connect_types(outline);
        Ok(graph.judge(outline, touched))
    }

    /// Whether a function and one that it calls by its index lie on one cycle.
    pub(crate) fn calls_back(&self, caller: u32, callee: u32) -> bool {
        self.component[caller as usize] == self.component[callee as usize]
    }

    /// The same of what a reference of this type may lead to.
    pub(crate) fn indirect_calls_back(&self, caller: u32, type_index: u32) -> bool {
        self.component[caller as usize] == self.indirect_component[type_index as usize]
    }
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
            tail_edges: vec![Vec::new(); next as usize],
            loops: vec![false; functions],
            operators: vec![0; functions],
            has_tail_calls: false,
            type_nodes,
        }
    }

    fn see(&mut self, function: usize, operator: &Operator<'_>) {
        self.operators[function] += 1;
        match *operator {
            Operator::Loop { .. } => self.loops[function] = true,
            Operator::Call { function_index } => self.edges[function].push(function_index),
            Operator::CallIndirect { type_index, .. } => {
                let node = self.type_nodes[type_index as usize];
                self.edges[function].push(node);
            }
            Operator::ReturnCall { function_index } => {
                self.has_tail_calls = true;
                self.edges[function].push(function_index);
                self.tail_edges[function].push(function_index);
            }
            Operator::ReturnCallIndirect { type_index, .. } => {
                let node = self.type_nodes[type_index as usize];
                self.edges[function].push(node);
                self.tail_edges[function].push(node);
            }
            _ => {}
        }
    }

    fn connect_types(&mut self, outline: &Outline) {
        for &function in &outline.addressed {
            let node = self.type_nodes[outline.functions[function as usize] as usize] as usize;
            self.edges[node].push(function);
            self.tail_edges[node].push(function);
        }
    }

    fn judge(self, outline: &Outline, touched: Touched) -> Calls {
        let functions = outline.functions.len();
        let cycles = Components::of(&self.edges);
        let on_tail_cycle = Components::of(&self.tail_edges).on_cycle;
        let does_much = self.does_much(&cycles);
        let mut may_stop = cycles.on_cycle;
        for (node, &has_loop) in self.loops.iter().enumerate() {
            may_stop[node] |= has_loop || does_much[node];
        }
        spread_to_callers(&self.edges, &mut may_stop);
        let polls_at_entry = (0..functions)
            .map(|node| does_much[node] || on_tail_cycle[node] && !self.tail_edges[node].is_empty())
            .collect();
        let indirect_component = self.type_nodes.iter().map(|&node| cycles.number[node as usize]);
        let indirect_component = indirect_component.collect();
        let mut component = cycles.number;
        component.truncate(functions);
        let indirect_may_stop = self.type_nodes.iter().map(|&node| may_stop[node as usize]).collect();
        may_stop.truncate(functions);
        let callers = self.edges.iter().zip(&may_stop).filter(|(_, may_stop)| **may_stop);
        let called = callers.flat_map(|(callees, _)| callees.iter().copied());
        Calls {
            called: called.filter(|&callee| (callee as usize) < functions).collect(),
            has_tail_calls: self.has_tail_calls,
            may_stop,
            polls_at_entry,
            component,
            indirect_component,
            indirect_may_stop,
            touched,
        }
    }

    /// Functions that may do more than they should between two polls, if only loops and calls on cycles polled. They
    /// poll at their entry, after which their callers have polled as well.
    fn does_much(&self, cycles: &Components) -> Vec<bool> {
        let functions = self.operators.len();
        let mut work = vec![0_u64; self.edges.len()];
        let mut polls = vec![false; functions];
        for component in &cycles.callees_first {
            for &node in component {
                let callees = self.edges[node].iter().map(|&callee| callee as usize);
                let elsewhere = callees.filter(|&callee| cycles.number[callee] != cycles.number[node]);
                let called = elsewhere.map(|callee| work[callee]);
                if node >= functions {
                    work[node] = called.max().unwrap_or_default();
                    continue;
                }
                let all = called.fold(self.operators[node], u64::saturating_add);
                let most = if cycles.on_cycle[node] {
                    WORK_ON_CYCLE_MAX
                } else {
                    WORK_MAX
                };
                polls[node] = all > most;
                work[node] = if polls[node] { 0 } else { all };
            }
        }
        polls
    }
}

impl Touched {
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

/// The components of a graph whose nodes reach each other (Tarjan's algorithm, without recursion).
struct Components {
    /// Of each node, the number of its component.
    number: Vec<u32>,
    /// Nodes of components with several, and those with an edge to themselves.
    on_cycle: Vec<bool>,
    /// The nodes of each, those that others lead to first.
    callees_first: Vec<Vec<usize>>,
}

impl Components {
    fn of(edges: &[Vec<u32>]) -> Self {
        let mut search = Search::new(edges);
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
    on_stack: Vec<bool>,
    stack: Vec<usize>,
    next: usize,
    found: Components,
}

impl<'g> Search<'g> {
    fn new(edges: &'g [Vec<u32>]) -> Self {
        let count = edges.len();
        Self {
            edges,
            order: vec![UNSEEN; count],
            lowest: vec![UNSEEN; count],
            on_stack: vec![false; count],
            stack: Vec::new(),
            next: 0,
            found: Components {
                number: vec![0; count],
                on_cycle: vec![false; count],
                callees_first: Vec::new(),
            },
        }
    }

    fn enter(&mut self, node: usize) {
        self.order[node] = self.next;
        self.lowest[node] = self.next;
        self.next += 1;
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
            }
        }
    }

    /// Takes a finished component off the stack.
    fn leave(&mut self, node: usize) {
        if self.lowest[node] != self.order[node] {
            return;
        }
        let start = self.stack.iter().rposition(|&other| other == node);
        let component = self
            .stack
            .split_off(start.expect("the root of a component is on the stack"));
        let alone = component.len() == 1 && !self.edges[node].iter().any(|&to| to as usize == node);
        let number = self.found.callees_first.len();
        let number = u32::try_from(number).expect("a module has fewer than 2^32 functions and types");
        for &member in &component {
            self.on_stack[member] = false;
            self.found.on_cycle[member] = !alone;
            self.found.number[member] = number;
        }
        self.found.callees_first.push(component);
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
        assert_eq!(calls.polls_at_entry, [false; 6]);
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

    #[test]
    fn functions_on_one_cycle_are_told_from_those_that_it_only_reaches() {
        let calls = calls_of(
            "(module
                (table 1 funcref) (elem (i32.const 0) $even)
                (func $even (param i32) (call $odd))
                (func $odd (call_indirect (param i32) (i32.const 1) (i32.const 0)) (call $loops))
                (func $loops (loop (br_if 0 (i32.const 0)))))",
        );
        assert!(calls.calls_back(0, 1) && calls.indirect_calls_back(1, 0));
        assert!(!calls.calls_back(1, 2) && !calls.calls_back(2, 1));
    }

    #[test]
    fn functions_that_call_each_other_as_their_last_act_poll_at_their_entry() {
        let calls = calls_of(
            "(module (func $a (return_call $b)) (func $b (return_call $a)) (func $c (return_call $a))
                (func $d (call $d)))",
        );
        assert_eq!(calls.polls_at_entry, [true, true, false, false]);
        assert_eq!(calls.may_stop, [true; 4]);
    }
}
