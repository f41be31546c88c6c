//! Access keys in the store.

use std::sync::Arc;

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_functions::access::{AccessKeyError, AccessKeys};

use crate::world::World;

#[tokio::test]
async fn keys_are_made_kept_and_removed_each_with_an_audit_row() {
    let world = World::durable().await;
    let keys = AccessKeys::new(world.store.clone(), Clock::system(), Entropy::system());
    assert_eq!(keys.list().await.unwrap(), []);
    let made = keys.create("111122223333".parse().unwrap()).await.unwrap();
    let other = AccessKeys::new(Arc::clone(&world.store), Clock::system(), Entropy::system());
    assert_eq!(other.list().await.unwrap(), vec![made.clone()]);
    let subject = format!("111122223333/access-key/{}", made.id);
    other.remove(&made.id).await.unwrap();
    assert_eq!(keys.list().await.unwrap(), []);
    let again = keys.remove(&made.id).await;
    assert!(matches!(again, Err(AccessKeyError::Unknown(_))), "{again:?}");
    assert_eq!(
        world.handle.audited(&subject).await.unwrap(),
        ["CreateAccessKey", "DeleteAccessKey"]
    );
}
