//! What a front end remembers of its last creates with a token: what was told, and what may still come.

use std::collections::{HashMap, VecDeque};

use super::id::{StoreName, Unique};
use super::model::Created;

/// The newest requests, up to a number; the oldest is forgotten first.
#[derive(Debug)]
pub(super) struct Recall {
    requests_max: usize,
    requests: HashMap<u128, Request>,
    oldest_first: VecDeque<u128>,
}

#[derive(Debug, Default)]
struct Request {
    told: Option<Created>,
    /// The latest attempt on each store of which nobody knows whether it has come or will.
    doubts: Vec<(StoreName, Unique)>,
}

impl Recall {
    pub fn new(requests_max: usize) -> Self {
        Self {
            requests_max,
            requests: HashMap::new(),
            oldest_first: VecDeque::new(),
        }
    }

    /// What was told before.
    pub fn told(&self, request: u128) -> Option<Created> {
        self.requests.get(&request)?.told.clone()
    }

    pub fn tell(&mut self, request: u128, created: &Created) {
        self.of(request).told = Some(created.clone());
    }

    /// An attempt on a store was left in doubt.
    pub fn doubt(&mut self, request: u128, store: &StoreName, unique: Unique) {
        let doubts = &mut self.of(request).doubts;
        match doubts.iter_mut().find(|(name, _)| name == store) {
            Some((_, latest)) => *latest = unique.max(*latest),
            None => doubts.push((store.clone(), unique)),
        }
    }

    /// Whether an attempt that may still come to the store would be later than `winner`, and so supersede it.
    pub fn threatens(&self, request: u128, store: &StoreName, winner: Unique) -> bool {
        let mut doubts = self.requests.get(&request).into_iter().flat_map(|found| &found.doubts);
        doubts.any(|(name, unique)| name == store && *unique > winner)
    }

    fn of(&mut self, request: u128) -> &mut Request {
        if !self.requests.contains_key(&request) {
            self.oldest_first.push_back(request);
            if self.oldest_first.len() > self.requests_max
                && let Some(oldest) = self.oldest_first.pop_front()
            {
                self.requests.remove(&oldest);
            }
        }
        self.requests.entry(request).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unique(number: u128) -> Unique {
        Unique::from_number(number)
    }

    #[test]
    fn only_a_later_attempt_on_that_store_threatens_an_answer() {
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut recall = Recall::new(10);
        recall.doubt(1, &a, unique(5));
        recall.doubt(1, &a, unique(3));
        assert!(recall.threatens(1, &a, unique(4)), "the later attempt counts");
        assert!(!recall.threatens(1, &a, unique(5)));
        assert!(!recall.threatens(1, &b, unique(4)) && !recall.threatens(2, &a, unique(4)));
    }

    #[test]
    fn the_oldest_request_is_forgotten_first() {
        let a: StoreName = "a".parse().unwrap();
        let created = Created {
            id: format!("v1.a.{:032x}", 7).parse().unwrap(),
            version: 1,
        };
        let mut recall = Recall::new(2);
        recall.tell(1, &created);
        recall.doubt(2, &a, unique(9));
        recall.tell(3, &created);
        assert!(recall.told(1).is_none());
        assert!(recall.threatens(2, &a, unique(1)) && recall.told(3).is_some());
    }
}
