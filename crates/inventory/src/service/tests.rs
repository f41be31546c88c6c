//! What the service keeps beside its drivers.

use bowline_store::MemoryStore;

use super::*;
use crate::book::COSTS_MAX;

async fn service() -> Service {
    let options = Options {
        store: Arc::new(MemoryStore::default()),
        clock: Clock::system(),
        entropy: Entropy::seeded(5),
        providers: Vec::new(),
        node: "here".to_owned(),
        lease: Duration::from_secs(60),
        metrics: Metrics::default(),
        crash: CrashPoints::default(),
    };
    Service::start(options).await.unwrap()
}

fn account() -> AccountId {
    "111122223333".parse().unwrap()
}

fn hold() -> (Hold, mpsc::Sender<Order>) {
    let (orders, _) = mpsc::channel(1);
    let hold = Hold {
        orders: orders.clone(),
        removing: watch::channel(false).0,
        task: tokio::spawn(async {}),
    };
    (hold, orders)
}

impl Shared {
    /// From now on the driver of an instance hears no order and nobody sees it end, until what is returned is dropped.
    pub(crate) fn mute(&self, account: &AccountId, name: &str) -> mpsc::Receiver<Order> {
        let (orders, unheard) = mpsc::channel(ORDERS_MAX);
        let key = (account.clone(), name.to_owned());
        let mut drivers = self.drivers.lock();
        drivers.as_mut().unwrap().get_mut(&key).unwrap().orders = orders;
        unheard
    }
}

#[tokio::test]
async fn a_driver_that_ends_takes_nothing_of_its_successor_away() {
    let service = service().await;
    let (shared, name) = (&service.shared, (account(), "shop".to_owned()));
    let ((_, first), (second, own)) = (hold(), hold());
    shared.drivers.lock().as_mut().unwrap().insert(name.clone(), second);
    shared.roster.set(&name.0, &name.1, Some(Standing::Coming));
    let is_driven = || shared.drivers.lock().as_ref().unwrap().contains_key(&name);
    shared.driven(&name, &first);
    assert!(is_driven() && shared.roster.is_hopeful(&name.0));
    shared.driven(&name, &own);
    assert!(
        !is_driven() && !shared.roster.is_hopeful(&name.0),
        "the control: its own end"
    );
}

#[tokio::test]
async fn the_newest_costs_of_a_role_are_kept_and_read_in_pages() {
    let handle = service().await.handle();
    let caller = Caller {
        account: account(),
        request_id: "test".to_owned(),
    };
    let add = async |role: &str, price: usize| {
        let cost = CostIndication {
            role: role.to_owned(),
            server: None,
            price: price as f64,
            currency: "EUR".to_owned(),
            per_unit: "vcpu".to_owned(),
            per_time: "hour".to_owned(),
            at: handle.shared.clock.now(),
        };
        handle.add_cost(&caller, cost).await.unwrap();
    };
    let read = async |role: &str, limit: usize| {
        let (mut prices, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = handle.costs(&account(), role, after.as_deref(), limit).await.unwrap();
            assert!(page.len() <= limit);
            let Some((last, _)) = page.last() else { return prices };
            after = Some(last.clone());
            prices.extend(page.iter().map(|(_, cost)| cost.price as usize));
        }
    };
    add("db", 7).await;
    for price in 0..COSTS_MAX {
        add("web", price).await;
    }
    assert_eq!(
        read("web", 300).await,
        (0..COSTS_MAX).collect::<Vec<_>>(),
        "the control"
    );
    add("web", COSTS_MAX).await;
    add("web", COSTS_MAX + 1).await;
    assert_eq!(read("web", 300).await, (2..COSTS_MAX + 2).collect::<Vec<_>>());
    assert_eq!(read("db", 1).await, [7], "another role's stay");
}
