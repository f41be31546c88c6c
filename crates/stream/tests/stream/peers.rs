//! Hosts on one store that reach each other over TCP.

use std::sync::Arc;
use std::time::Duration;

use bowline_store::{MemoryStore, Store};
use bowline_stream::peers::tcp::{Others, Secret, TcpPeers, connect, serve};
use bowline_stream::{AppendError, NoPeers, Options, Peers, Sharing, StreamId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::node::{Node, given, numbers, options};

const SECRET: [u8; Secret::BYTES] = [7; Secret::BYTES];

/// A host that others reach, and its listener.
struct Reachable {
    node: Node,
    address: String,
    serving: JoinHandle<()>,
    /// Connections of another protocol.
    others: mpsc::Receiver<TcpStream>,
}

impl Reachable {
    async fn start(store: &Arc<dyn Store>, peers: Arc<dyn Peers>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let node = Node::start(Options {
            peers,
            address: address.clone(),
            sharing: Sharing::Shared,
            ..options(store.clone())
        })
        .await;
        let (handed_on, others) = mpsc::channel(1);
        let others_secret = Others {
            secret: Secret::new(SECRET).derived("another protocol"),
            connections: handed_on,
        };
        let serving = serve(listener, Secret::new(SECRET), node.handle.clone(), Some(others_secret));
        Self {
            node,
            address,
            serving: tokio::spawn(serving),
            others,
        }
    }

    async fn stop(self) {
        self.serving.abort();
        self.node.crash().await;
    }
}

fn tcp() -> Arc<dyn Peers> {
    Arc::new(TcpPeers::new(Secret::new(SECRET)))
}

/// A stream whose chains the first host owns.
async fn two(second_knows: Arc<dyn Peers>) -> (Reachable, Reachable, StreamId) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let first = Reachable::start(&store, tcp()).await;
    let stream = first.node.create("orders").await;
    let second = Reachable::start(&store, second_knows).await;
    (first, second, stream)
}

#[tokio::test]
async fn an_event_with_an_identifier_is_stored_once_whichever_host_takes_it() {
    let (first, second, stream) = two(tcp()).await;
    let there = second.node.append(&stream, vec![given(1)]).await;
    let here = first.node.append(&stream, vec![given(1)]).await;
    assert_eq!(here, there, "both hosts say where it lies");
    second.node.append(&stream, vec![given(2)]).await;
    for host in [&first, &second] {
        assert_eq!(numbers(&host.node.read_all(&stream, 10).await), [1, 2]);
    }
    second.stop().await;
    first.stop().await;
}

#[tokio::test]
async fn control_without_a_way_the_other_host_is_missed() {
    let (first, second, stream) = two(Arc::new(NoPeers)).await;
    let refused = second.node.handle.append(&stream, vec![given(1)]).await;
    assert!(matches!(refused, Err(AppendError::Unavailable { .. })), "{refused:?}");
    second.stop().await;
    first.stop().await;
}

#[tokio::test]
async fn connections_of_another_protocol_are_handed_on_and_those_of_others_are_not() {
    let (mut first, second, _) = two(tcp()).await;
    for (purpose, is_known) in [("a third protocol", false), ("another protocol", true)] {
        let secret = Secret::new(SECRET).derived(purpose);
        let mut connection = connect(&first.address, &secret).await.unwrap();
        connection.write_all(b"hello").await.unwrap();
        if !is_known {
            let read = connection.read(&mut [0]).await;
            assert_eq!(read.unwrap_or(0), 0, "it is cut off");
            assert!(first.others.try_recv().is_err(), "control");
            continue;
        }
        let handed_on = tokio::time::timeout(Duration::from_secs(10), first.others.recv()).await;
        let mut handed_on = handed_on.expect("it comes at once").expect("the door is open");
        let mut said = [0; 5];
        handed_on.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"hello");
    }
    second.stop().await;
    first.stop().await;
}

#[tokio::test]
async fn who_does_not_know_the_secret_is_cut_off() {
    let (first, second, _) = two(tcp()).await;
    for (secret, expected) in [([8; Secret::BYTES], 0), (SECRET, 4)] {
        let mut connection = TcpStream::connect(&first.address).await.unwrap();
        connection.write_all(&secret).await.unwrap();
        // A frame that is no question: whoever is heard is answered.
        let _ = connection.write_all(&[0, 0, 0, 1, 9]).await;
        let mut length = [0; 4];
        let heard = tokio::time::timeout(Duration::from_secs(10), connection.read_exact(&mut length)).await;
        let heard = heard.expect("neither is left waiting").unwrap_or(0);
        assert_eq!(heard, expected);
    }
    second.stop().await;
    first.stop().await;
}
