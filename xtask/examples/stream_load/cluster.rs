//! One stream on four nodes beside one on a single node, and whether all four read it in one order.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::http::{Connection, Http};
use crate::load::MANY;
use crate::turns::{self, Effort, Figures, Seat, Threads};

pub fn run(single: &str, nodes: &[String], threads: &Threads, effort: Effort, figures: &mut Figures) -> Result<()> {
    let http = |name, addresses: Vec<String>| Box::new(Http { name, addresses });
    let mut seats: Vec<Seat<'_>> = vec![
        (&threads.client, http("one node", vec![single.to_owned()])),
        (&threads.client, http("four nodes", nodes.to_vec())),
    ];
    let events = turns::take(&mut seats, &MANY, effort, figures)?;
    let stream = MANY.stream();
    let orders = nodes.iter().map(|node| threads.client.block_on(order(node, &stream)));
    let orders: Vec<Vec<String>> = orders.collect::<Result<_>>()?;
    for (node, order) in nodes.iter().zip(&orders) {
        let (found, acknowledged) = (order.len(), events[1]);
        ensure!(found == acknowledged, "`{node}` reads {found} events of {acknowledged}");
        ensure!(
            order.is_sorted_by(|a, b| a < b),
            "`{node}` reads a position twice or out of order"
        );
        ensure!(*order == orders[0], "`{node}` reads another order than `{}`", nodes[0]);
    }
    Ok(())
}

/// The positions of all events, as one node gives them.
async fn order(address: &str, stream: &str) -> Result<Vec<String>> {
    let mut connection = Connection::open(address).await?;
    let (mut positions, mut from) = (Vec::new(), "oldest".to_owned());
    loop {
        let request = format!(
            "GET /v1/streams/{stream}/events?from={from}&limit=1000 HTTP/1.1\r\nHost: node\r\n\
             Accept: application/x-ndjson\r\n\r\n"
        );
        let reply = connection.exchange(request.as_bytes()).await?;
        let text = String::from_utf8_lossy(&reply.body);
        ensure!(reply.status == 200, "the node answered {}: {text}", reply.status);
        for line in text.lines() {
            let event: Value = serde_json::from_str(line)?;
            positions.push(
                event["position"]
                    .as_str()
                    .context("an event without a position")?
                    .to_owned(),
            );
        }
        from = reply.header("bowline-next").context("no `Bowline-Next`")?.to_owned();
        if reply.header("bowline-more") != Some("true") {
            return Ok(positions);
        }
    }
}
