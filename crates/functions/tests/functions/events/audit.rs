//! The audit trail as a stream.

use serde_json::Value;

use super::harness::Events;
use crate::world::{caller, target};

#[tokio::test]
async fn every_mutation_is_in_the_stream_once_and_in_order() {
    let events = Events::new().await;
    events.world.deploy("f").await;
    events.world.redeploy("f", "two").await;
    let expected = ["CreateFunction", "Settle", "UpdateFunctionCode", "Settle"];
    let rows = events.read_until("bowline.audit", expected.len()).await;
    let actions = |rows: &[Value]| -> Vec<String> {
        let action = |row: &Value| row["record"]["action"].as_str().unwrap_or_default().to_owned();
        rows.iter().map(action).collect()
    };
    assert_eq!(actions(&rows), expected);
    assert_eq!(rows[0]["record"]["subject"], "000000000000/f");
    // A node that starts again publishes nothing twice.
    let events = events.restart().await;
    events
        .world
        .handle
        .delete_function(&caller(), &target("f"))
        .await
        .unwrap();
    let rows = events.read_until("bowline.audit", 5).await;
    assert_eq!(actions(&rows)[4..], ["DeleteFunction"]);
    let trail = events.world.handle.audited("000000000000/f").await.unwrap();
    assert_eq!(actions(&rows), trail, "the stream tells what the trail does");
    events.stop().await;
}
