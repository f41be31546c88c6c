//! The acceptance tests of the reservation policy (14), over cells that are numbers.

use super::*;

const PYTHON: &str = "python3.11";
const NODE: &str = "nodejs20.x";

/// A stock whose cells come as soon as they are asked for.
struct World {
    stock: Stock<u32>,
    now: Timestamp,
    made: u32,
    facts: BTreeMap<&'static str, Facts>,
}

impl World {
    fn new(count_min: u32, budget: u32) -> Self {
        let mut world = Self {
            stock: Stock::new(Reserve {
                count_min,
                budget: Mebibytes(budget),
            }),
            now: Timestamp::from_micros(1_000_000_000_000_000),
            made: 0,
            facts: BTreeMap::new(),
        };
        let facts = |memory, millis| Facts {
            memory: Mebibytes(memory),
            start: Duration::from_millis(millis),
        };
        world.facts.insert(PYTHON, facts(16, 100));
        world.facts.insert(NODE, facts(64, 100));
        world
    }

    fn pass(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
    }

    /// Brings the cells to their numbers; how many were made and given up.
    fn adjust(&mut self) -> (usize, usize) {
        let Changes { start, retire } = self.stock.adjust(self.now);
        let counts = (start.len(), retire.len());
        for (name, worker) in start {
            self.made += 1;
            let facts = self.facts[name.as_str()];
            assert_eq!(self.stock.came(&name, worker, (self.made, facts), self.now), None);
        }
        counts
    }

    fn take(&mut self, name: &str) -> Option<u32> {
        self.stock.take(name, self.now, |_| true)
    }

    /// Takes so many, each replaced before the next.
    fn takes(&mut self, name: &str, count: u32) {
        for _ in 0..count {
            self.take(name);
            self.adjust();
        }
    }

    fn ready(&self) -> (usize, usize) {
        (self.stock.ready(PYTHON), self.stock.ready(NODE))
    }
}

/// 14/T-N1 and 14/T-N3.
#[test]
fn t_n1_and_n3_cells_of_each_runtime_are_there_before_and_serve_no_other() {
    let mut world = World::new(3, 1024);
    assert_eq!(world.adjust(), (0, 0), "the control: no runtime is in use");
    world.stock.keep(PYTHON);
    world.stock.keep(PYTHON);
    assert!(!world.stock.is_pending(PYTHON));
    assert_eq!((world.adjust(), world.ready()), ((3, 0), (3, 0)));
    world.stock.keep(NODE);
    assert_eq!(world.take(NODE), None, "those of another runtime are not taken");
    assert_eq!(world.ready(), (3, 0));
    assert_eq!(world.take(PYTHON), Some(1));
    assert_eq!(world.take("ruby"), None);
}

#[test]
fn none_is_kept_where_none_is_wanted() {
    let mut world = World::new(0, 1024);
    world.stock.keep(PYTHON);
    world.takes(PYTHON, 50);
    assert_eq!(world.ready(), (0, 0));
}

/// 14/T-N9, and N8: a miss counts, and so does a hit.
#[test]
fn t_n9_what_is_taken_raises_the_number_and_what_is_not_lets_it_fall() {
    let mut world = World::new(1, 1024);
    world.stock.keep(PYTHON);
    world.adjust();
    assert_eq!(world.ready(), (1, 0));
    assert!(world.take(PYTHON).is_some());
    for _ in 0..19 {
        assert_eq!(world.take(PYTHON), None);
    }
    assert_eq!(world.stock.misses(), 19);
    world.adjust();
    assert_eq!(world.ready(), (5, 0), "a quarter of twenty");
    // Not before they have waited for a while.
    world.pass(59);
    world.adjust();
    assert_eq!(world.ready(), (5, 0));
    world.pass(30);
    assert_eq!((world.adjust(), world.ready()), ((0, 4), (1, 0)));
}

/// 14/T-N4: what came at an hour of the days before is expected at it again.
#[test]
fn t_n4_the_usual_hour_finds_more_of_them() {
    let mut world = World::new(1, 1024);
    world.stock.keep(PYTHON);
    let hour = 3600;
    // Ten o'clock.
    world.now = Timestamp::from_micros((11_574 * 24 + 10) * hour * 1_000_000);
    for _ in 0..1200 {
        world.take(PYTHON);
        world.pass(3);
    }
    world.take(PYTHON);
    world.pass(23 * hour - 90);
    world.adjust();
    assert_eq!(world.ready(), (1, 0), "the control: a minute and a half before ten");
    world.pass(60);
    world.adjust();
    assert_eq!(world.ready(), (5, 0), "of twenty in a minute");
    world.pass(2 * hour);
    world.adjust();
    assert_eq!(world.ready(), (1, 0));
}

/// 14/T-N6.
#[test]
fn t_n6_the_budget_goes_to_those_that_are_worth_most() {
    let mut world = World::new(1, 160);
    world.stock.keep(PYTHON);
    world.stock.keep(NODE);
    world.adjust();
    world.takes(PYTHON, 40);
    world.takes(NODE, 40);
    let held = |world: &World| {
        let (python, node) = world.ready();
        python * 16 + node * 64
    };
    world.adjust();
    assert!(held(&world) <= 160, "{:?}", world.ready());
    assert_eq!(world.ready(), (6, 1), "of equal demand the small ones are worth more");
    let mut control = World::new(1, 4096);
    control.stock.keep(PYTHON);
    control.stock.keep(NODE);
    control.takes(PYTHON, 40);
    control.takes(NODE, 40);
    control.adjust();
    assert_eq!(control.ready(), (10, 10), "the control: with memory for all");
}

/// 14/T-N11.
#[test]
fn t_n11_the_reserve_changes_while_cells_are_in_use() {
    let mut world = World::new(3, 1024);
    world.stock.keep(PYTHON);
    world.adjust();
    let taken = world.take(PYTHON);
    let reserve = world.stock.reserve;
    world.stock.set_reserve(Reserve {
        count_min: 6,
        ..reserve
    });
    world.adjust();
    assert_eq!((taken.is_some(), world.ready()), (true, (6, 0)));
    world.stock.set_reserve(reserve);
    world.pass(90);
    world.adjust();
    assert_eq!(world.ready(), (3, 0));
}

#[test]
fn a_cell_that_died_is_not_given_and_one_that_fails_is_not_waited_for() {
    let mut world = World::new(2, 1024);
    world.stock.keep(PYTHON);
    world.adjust();
    assert_eq!(world.stock.take(PYTHON, world.now, |cell| *cell != 1), Some(2));
    let Changes { start, .. } = world.stock.adjust(world.now);
    assert_eq!((start.len(), world.stock.is_pending(PYTHON)), (2, true));
    for (_, worker) in start {
        world.stock.failed(worker);
    }
    assert!(!world.stock.is_pending(PYTHON));
    assert_eq!(world.adjust(), (2, 0), "it is tried again");
}

#[test]
fn what_comes_after_the_end_is_given_back() {
    let mut world = World::new(2, 1024);
    world.stock.keep(PYTHON);
    let Changes { start, .. } = world.stock.adjust(world.now);
    let facts = world.facts[PYTHON];
    assert_eq!(world.stock.came(PYTHON, start[0].1, (7, facts), world.now), None);
    assert_eq!(world.stock.close(), [7]);
    assert_eq!(world.stock.came(PYTHON, start[1].1, (8, facts), world.now), Some(8));
    assert_eq!(world.adjust(), (0, 0));
    assert!(world.stock.is_closed());
}
