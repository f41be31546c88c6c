//! Lists in pages: `limit` says how many, `next` where the page before ended.

use serde::Serialize;
use utoipa::ToSchema;

/// Items of a page unless the caller says otherwise.
pub const LIMIT_DEFAULT: usize = 100;
/// Most items of a page.
pub const LIMIT_MAX: usize = 1000;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct ListPage<T> {
    pub items: Vec<T>,
    /// What to give as `next` for the page after this one; missing at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The first `limit` of all that comes after `next`; `name` tells where an item stands in the order.
pub fn cut<T>(items: Vec<T>, limit: usize, next: Option<&str>, name: impl Fn(&T) -> String) -> ListPage<T> {
    let beyond = |item: &T| next.is_none_or(|next| name(item).as_str() > next);
    let mut items: Vec<T> = items.into_iter().filter(beyond).take(limit + 1).collect();
    let more = items.len() > limit;
    items.truncate(limit);
    ListPage {
        next: items.last().filter(|_| more).map(&name),
        items,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_join_without_gap_or_overlap() {
        let all = || vec!["a", "b", "c", "d", "e"];
        let name = |item: &&str| (*item).to_owned();
        let (mut seen, mut next) = (Vec::new(), None);
        loop {
            let page = cut(all(), 2, next.as_deref(), name);
            seen.extend(page.items);
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        assert_eq!(seen, all());
        assert_eq!(cut(all(), 5, None, name).next, None, "a full last page is the end");
    }
}
