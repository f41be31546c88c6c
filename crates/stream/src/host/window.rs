//! The newest events of a chain that clients may send again, by their identifiers.

use std::collections::{HashMap, VecDeque};

use crate::{EventId, Position};

/// Remembers the positions of the last `capacity` events that were put in.
#[derive(Debug)]
pub(crate) struct Window {
    capacity: usize,
    places: HashMap<EventId, Position>,
    oldest_first: VecDeque<EventId>,
}

impl Window {
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            places: HashMap::new(),
            oldest_first: VecDeque::new(),
        }
    }

    pub fn get(&self, id: &EventId) -> Option<Position> {
        self.places.get(id).copied()
    }

    pub fn put(&mut self, id: EventId, position: Position) {
        if self.places.insert(id, position).is_none() {
            self.oldest_first.push_back(id);
        }
        if self.oldest_first.len() > self.capacity
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.places.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut window = Window::new(2);
        let id = |n| EventId([n; 16]);
        (1..=3).for_each(|n| window.put(id(n), Position::START));
        assert_eq!(window.get(&id(1)), None);
        assert!(window.get(&id(2)).is_some() && window.get(&id(3)).is_some());
    }
}
