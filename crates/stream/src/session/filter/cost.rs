//! What an expression may do, and how many steps it takes for an event of a given weight.
//!
//! Each node of the tree is evaluated once, or once for each element of the one list or map that the macro
//! around it goes over. A node may walk over what it is given: a comparison, `in`, `size`, `contains`. What
//! makes that a bound:
//!  - no macro inside the condition of another, so nothing is evaluated elements² times;
//!  - within a macro's condition `body` is out of reach, so each round walks over its own element, and all
//!    rounds together over the body once for each node; the key, which is in reach, multiplies the weight;
//!  - no `map`, and `+` at most [`PLUS_MAX`] times and not within a macro, so no value is much larger than
//!    the body.

use cel::common::ast::{ComprehensionExpr, EntryExpr, Expr, operators};
use cel::parser::Expression;

use super::InvalidFilter;
use crate::session::limits::FILTER_NODES_MAX;

const VARIABLES: &[&str] = &["body", "key", "at", "id"];
/// Most additions of an expression: they can join texts and lists.
const PLUS_MAX: u64 = 8;

const OPERATORS: &[&str] = &[
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
    operators::NOT_STRICTLY_FALSE,
    operators::IN,
];
const FUNCTIONS: &[&str] = &[
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "bool",
    "type",
];

#[derive(Debug, Default)]
pub(super) struct Cost {
    nodes: u64,
    additions: u64,
}

/// Where in the expression a node stands.
#[derive(Clone, Copy)]
struct Scope<'a> {
    /// The macro around it.
    around: Option<&'a ComprehensionExpr>,
}

impl Cost {
    pub fn of(expression: &Expression) -> Result<Self, InvalidFilter> {
        let mut cost = Self::default();
        cost.walk(expression, Scope { around: None })?;
        let nodes = usize::try_from(cost.nodes).unwrap_or(usize::MAX);
        if nodes > FILTER_NODES_MAX {
            return Err(InvalidFilter::TooComplex(nodes));
        }
        if cost.additions > PLUS_MAX {
            return Err(InvalidFilter::Unbounded("`+` too often"));
        }
        Ok(cost)
    }

    /// The most that evaluating takes for an event of this weight.
    pub fn steps(&self, weight: u64) -> u64 {
        self.nodes * (1 + weight) * (1 + self.additions)
    }

    fn walk(&mut self, node: &Expression, scope: Scope) -> Result<(), InvalidFilter> {
        self.nodes += 1;
        match &node.expr {
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => check_name(name, scope),
            Expr::Select(select) => self.walk(&select.operand, scope),
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.walk(element, scope)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.walk(&entry.key, scope)?;
                    self.walk(&entry.value, scope)
                }
                EntryExpr::StructField(_) => Err(InvalidFilter::Unbounded("a message")),
            }),
            Expr::Call(call) => {
                self.check_call(&call.func_name, scope)?;
                call.target
                    .as_deref()
                    .map_or(Ok(()), |target| self.walk(target, scope))?;
                call.args.iter().try_for_each(|argument| self.walk(argument, scope))
            }
            Expr::Comprehension(inner) => self.walk_macro(inner, scope),
            Expr::Struct(_) => Err(InvalidFilter::Unbounded("a message")),
            Expr::Unspecified => Err(InvalidFilter::Syntax("an expression is missing".to_owned())),
        }
    }

    fn check_call(&mut self, function: &str, scope: Scope) -> Result<(), InvalidFilter> {
        if !OPERATORS.contains(&function) && !FUNCTIONS.contains(&function) {
            return Err(InvalidFilter::UnknownFunction(function.to_owned()));
        }
        if function == operators::ADD {
            if scope.around.is_some() {
                return Err(InvalidFilter::Unbounded("`+` within a macro"));
            }
            self.additions += 1;
        }
        Ok(())
    }

    fn walk_macro(&mut self, inner: &ComprehensionExpr, scope: Scope) -> Result<(), InvalidFilter> {
        if scope.around.is_some() {
            return Err(InvalidFilter::Unbounded("a macro within another"));
        }
        if VARIABLES.contains(&inner.iter_var.as_str()) || inner.iter_var2.is_some() {
            return Err(InvalidFilter::Unbounded("a macro's variable that hides another"));
        }
        self.walk(&inner.iter_range, scope)?;
        let within = Scope { around: Some(inner) };
        match appended(inner) {
            Append::Nothing => self.walk(&inner.loop_step, within),
            Append::Chosen(condition) => self.walk(condition, within),
            Append::Made => Err(InvalidFilter::Unbounded("`map`")),
        }
    }
}

fn check_name(name: &str, scope: Scope) -> Result<(), InvalidFilter> {
    let of_macro = |inner: &ComprehensionExpr| name == inner.iter_var || name == inner.accu_var;
    match scope.around {
        Some(inner) if of_macro(inner) => Ok(()),
        Some(_) if name == "body" => Err(InvalidFilter::Unbounded("`body` within a macro")),
        _ if VARIABLES.contains(&name) => Ok(()),
        _ => Err(InvalidFilter::UnknownName(name.to_owned())),
    }
}

/// What a macro's rounds add to its result.
enum Append<'a> {
    /// It counts, or says yes or no.
    Nothing,
    /// The element as it is, under this condition: `filter`.
    Chosen(&'a Expression),
    /// A new value: `map`.
    Made,
}

fn appended(inner: &ComprehensionExpr) -> Append<'_> {
    if !matches!(inner.accu_init.expr, Expr::List(_)) {
        return match &inner.loop_step.expr {
            Expr::Call(call) if call.func_name == operators::CONDITIONAL => counted(&call.args),
            _ => Append::Nothing,
        };
    }
    let Expr::Call(call) = &inner.loop_step.expr else {
        return Append::Made;
    };
    match call.args.as_slice() {
        [condition, added, _] if call.func_name == operators::CONDITIONAL && adds_element(added, &inner.iter_var) => {
            Append::Chosen(condition)
        }
        _ => Append::Made,
    }
}

/// `exists_one` adds one to a number under a condition.
fn counted(arguments: &[Expression]) -> Append<'_> {
    match arguments {
        [condition, _, _] => Append::Chosen(condition),
        _ => Append::Nothing,
    }
}

fn adds_element(added: &Expression, variable: &str) -> bool {
    let Expr::Call(call) = &added.expr else { return false };
    let [_, list] = call.args.as_slice() else { return false };
    let Expr::List(list) = &list.expr else { return false };
    matches!(list.elements.as_slice(), [one] if matches!(&one.expr, Expr::Ident(name) if name == variable))
}
