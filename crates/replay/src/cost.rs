//! What a decision costs: requests and turns of a keeper and an inventory of many functions, on the wall
//! clock.

use std::time::Duration;

use bowline_capacity::forecast::FunctionIndex;
use bowline_capacity::identity::{Code, Owner, SandboxId};
use bowline_capacity::keeper::{Change, Keeper, Kept, MEMORY_UNIT, Terms};
use bowline_capacity::ladder::{Inventory, Request};
use bowline_capacity::slot::Slot;
use bowline_foundation::clock::{Clock, Timestamp};
use bowline_foundation::entropy::Entropy;
use bowline_foundation::units::Mebibytes;

const OWNERS: u32 = 100;
const INSTANCE: Mebibytes = Mebibytes(4096);
const START: Slot = Slot(4 * 1440);
/// How many minutes are lived through before anything is measured, and while it is.
const SETTLE: u32 = 120;
const MEASURED: u32 = 30;
/// Nodes that share the functions.
const NODES: u32 = 10;

/// What was found.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// 99 of 100 decisions took no longer, in microseconds.
    pub request_p99_us: f64,
    /// One function's forecast for one minute, in microseconds.
    pub forecast_us: f64,
    /// Placements a second of ten nodes with stub sandboxes, one after the other.
    pub placements_per_s: f64,
}

/// A keeper and an inventory that does what the keeper decides.
struct Node {
    keeper: Keeper,
    inventory: Inventory,
    sandboxes: Vec<Option<SandboxId>>,
    now: Timestamp,
}

impl Node {
    fn new(functions: u32) -> Self {
        let terms = Terms {
            budget: Mebibytes(MEMORY_UNIT.0 * functions / 10),
            price: 0.0,
            ..Terms::default()
        };
        let mut keeper = Keeper::new(terms, START.start());
        (0..functions).for_each(|_| {
            keeper.add(Kept::default());
        });
        Self {
            keeper,
            inventory: Inventory::default(),
            sandboxes: vec![None; functions as usize],
            now: START.start(),
        }
    }

    /// Decides on a request, whether its function is warm, who makes room for it, and where it runs; says
    /// how long that took. Then lets it end.
    fn request(&mut self, function: FunctionIndex, clock: &Clock) -> Duration {
        let request = request_of(function);
        let mut victims = Vec::new();
        let begin = clock.monotonic();
        self.keeper.called(function, &mut victims);
        let acquired = self.inventory.acquire(&request, INSTANCE, self.now);
        let took = clock.monotonic().since(begin);
        self.sandboxes[function.0 as usize] = Some(acquired.sandbox);
        let goes = self.keeper.ended(function);
        self.inventory.release(acquired.sandbox, !goes, self.now);
        victims.into_iter().for_each(|victim| self.stop(victim));
        took
    }

    fn stop(&mut self, function: FunctionIndex) {
        if let Some(sandbox) = self.sandboxes[function.0 as usize].take() {
            self.inventory.destroy(sandbox);
        }
    }

    /// Comes to the next minute; says how long the forecasts and the choice took.
    fn turn(&mut self, clock: &Clock) -> Duration {
        self.now = self.now.after(Slot::LENGTH);
        let begin = clock.monotonic();
        let changes = self.keeper.turn(self.now);
        let took = clock.monotonic().since(begin);
        for change in changes {
            match change {
                Change::Drop(function) => self.stop(function),
                Change::Start(function) => {
                    let acquired = self.inventory.acquire(&request_of(function), INSTANCE, self.now);
                    self.inventory.release(acquired.sandbox, true, self.now);
                    self.sandboxes[function.0 as usize] = Some(acquired.sandbox);
                }
            }
        }
        took
    }
}

fn request_of(function: FunctionIndex) -> Request {
    Request {
        code: Code(u64::from(function.0)),
        owner: Owner(u64::from(function.0 % OWNERS)),
        memory: MEMORY_UNIT,
    }
}

/// Measures with so many functions and memory for a tenth of them, so that calls also have to make room.
pub fn cost(functions: u32) -> Cost {
    let (clock, dice) = (Clock::system(), Entropy::seeded(1));
    let mut node = Node::new(functions);
    let (mut requests, mut turns) = (Vec::new(), 0.0);
    for minute in 1..=SETTLE + MEASURED {
        let turn = node.turn(&clock);
        if minute > SETTLE {
            turns += turn.as_secs_f64();
        }
        for _ in 0..functions / 4 {
            // Some are called a thousand times as often as others.
            let place = f64::from(functions).powf(dice.unit());
            let function = FunctionIndex(whole(place).min(functions - 1));
            let took = node.request(function, &clock);
            if minute > SETTLE {
                requests.push(took.as_secs_f64() * 1e6);
            }
        }
    }
    requests.sort_by(f64::total_cmp);
    Cost {
        placements_per_s: placements(functions, &clock),
        request_p99_us: requests[requests.len() * 99 / 100],
        forecast_us: turns * 1e6 / f64::from(MEASURED) / f64::from(functions),
    }
}

/// Spreads calls over ten nodes, each function at home on one, through keepers, ladders and turns; the sandboxes are
/// stubs. Says how many calls were placed a second.
fn placements(functions: u32, clock: &Clock) -> f64 {
    let dice = Entropy::seeded(2);
    let mut nodes: Vec<Node> = (0..NODES).map(|_| Node::new(functions / NODES)).collect();
    let begin = clock.monotonic();
    let mut placed = 0;
    for _ in 0..MEASURED {
        for node in &mut nodes {
            node.turn(clock);
        }
        for _ in 0..functions {
            let place = whole(f64::from(functions).powf(dice.unit())).min(functions - 1);
            let node = &mut nodes[(place % NODES) as usize];
            node.request(FunctionIndex(place / NODES), clock);
            placed += 1;
        }
    }
    f64::from(placed) / clock.monotonic().since(begin).as_secs_f64()
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index below the number of functions"
)]
fn whole(place: f64) -> u32 {
    place as u32
}
