//! Connections that are carried over channels, whole ones and such as are cut off.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::channel::Dial;
use crate::host::{Host, HostOptions};
use crate::link::{CodeWay, LinkNews, LinkOptions};
use crate::mux::{self, MuxDial};

const EPOCH: u64 = 7;

/// A link to an agent, and a service beside that.
struct Way {
    dial: MuxDial,
    link: Link,
    _news: mpsc::Receiver<LinkNews>,
    agent: JoinHandle<()>,
    service: TcpListener,
    front: TcpListener,
}

/// A connection that is carried: both of its ends, and how the node sees it end.
struct Carried {
    client: TcpStream,
    server: TcpStream,
    ended: JoinHandle<io::Result<()>>,
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

impl Way {
    async fn open() -> Self {
        let (near, far) = tokio::io::duplex(4096);
        let dial = mux::dialer(near);
        let mut accept = mux::acceptor(far);
        let host = Host::new(HostOptions {
            clock: Clock::system(),
            backends: Vec::new(),
            code: None,
            log_dir: PathBuf::from("/nonexistent"),
        });
        let agent = tokio::spawn(async move {
            host.run(&mut accept).await;
        });
        let options = LinkOptions {
            dial: Arc::new(dial.clone()),
            epoch: EPOCH,
            lease: Duration::from_secs(60),
            clock: Clock::system(),
            code: CodeWay::Shared,
            memory_mib: None,
            maxima: None,
            made_ahead: None,
        };
        let (link, _news) = Link::connect(options).await.unwrap();
        Self {
            dial,
            link,
            _news,
            agent,
            service: listener().await,
            front: listener().await,
        }
    }

    /// A client that is carried to these places.
    async fn client(&self, to: Vec<SocketAddr>) -> (TcpStream, JoinHandle<io::Result<()>>) {
        let client = TcpStream::connect(self.front.local_addr().unwrap()).await.unwrap();
        let (stream, _) = self.front.accept().await.unwrap();
        let link = self.link.clone();
        let ended = tokio::spawn(async move { link.carry(stream, &to).await });
        (client, ended)
    }

    async fn connection(&self) -> Carried {
        let (client, ended) = self.client(vec![self.service.local_addr().unwrap()]).await;
        let (server, _) = self.service.accept().await.unwrap();
        Carried { client, server, ended }
    }
}

/// Bytes that are not everywhere the same.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7 + at % 251) as u8).collect()
}

async fn read_all(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    stream.read_to_end(&mut read).await.map(|_| read)
}

/// How the next word of this side ends.
async fn is_reset(stream: &mut TcpStream) -> bool {
    read_all(stream)
        .await
        .is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn each_side_ends_by_itself_and_all_that_was_said_comes() {
    let way = Way::open().await;
    let Carried {
        mut client,
        mut server,
        ended,
    } = way.connection().await;
    let (question, answer) = (bytes(1_500_000), bytes(2_000_003));
    let asked = question.clone();
    let asking = tokio::spawn(async move {
        client.write_all(&asked).await.unwrap();
        client.shutdown().await.unwrap();
        read_all(&mut client).await.unwrap()
    });
    assert!(read_all(&mut server).await.unwrap() == question);
    // The other way goes on.
    server.write_all(&answer).await.unwrap();
    drop(server);
    assert!(asking.await.unwrap() == answer);
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_cut_off_is_reset_and_not_taken_for_whole() {
    let way = Way::open().await;
    // The control: a service that closes ends what it said.
    let mut whole = way.connection().await;
    whole.server.write_all(b"all").await.unwrap();
    drop(whole.server);
    assert_eq!(read_all(&mut whole.client).await.unwrap(), b"all");

    let mut cut = way.connection().await;
    cut.server.set_zero_linger().unwrap();
    drop(cut.server);
    assert!(is_reset(&mut cut.client).await, "by the service");

    let mut cut = way.connection().await;
    cut.client.set_zero_linger().unwrap();
    drop(cut.client);
    assert!(is_reset(&mut cut.server).await, "by the client");

    let mut cut = way.connection().await;
    cut.ended.abort();
    assert!(is_reset(&mut cut.client).await, "by the node");
    assert!(is_reset(&mut cut.server).await, "by the node");

    let mut cut = way.connection().await;
    way.agent.abort();
    assert!(is_reset(&mut cut.client).await, "by the agent's end");
    assert!(is_reset(&mut cut.server).await, "by the agent's end");
}

#[tokio::test]
async fn the_first_place_that_takes_a_connection_counts_and_none_is_a_reset() {
    let way = Way::open().await;
    let nobody = listener().await.local_addr().unwrap();
    let (mut client, ended) = way.client(vec![nobody]).await;
    assert!(is_reset(&mut client).await);
    assert!(ended.await.unwrap().is_err());
    let (mut client, _) = way.client(vec![nobody, way.service.local_addr().unwrap()]).await;
    let (mut server, _) = way.service.accept().await.unwrap();
    server.write_all(b"ahoy").await.unwrap();
    drop(server);
    assert_eq!(read_all(&mut client).await.unwrap(), b"ahoy");
}

#[tokio::test]
async fn a_service_that_reads_nothing_holds_its_client_back_and_nobody_else() {
    // More than all buffers of the system and the windows hold.
    const FLOOD_BYTES: usize = 64 * 1024 * 1024;
    let way = Way::open().await;
    let Carried {
        mut client,
        mut server,
        ended,
    } = way.connection().await;
    let flood = tokio::spawn(async move {
        client.write_all(&vec![7; FLOOD_BYTES]).await.unwrap();
        client.shutdown().await.unwrap();
        read_all(&mut client).await.unwrap()
    });
    for _ in 0..20 {
        let mut other = way.connection().await;
        other.client.write_all(&bytes(300_000)).await.unwrap();
        other.client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut other.server).await.unwrap().len(), 300_000);
    }
    assert!(!flood.is_finished(), "it is held back");
    // The control: what holds it back is the service.
    assert_eq!(read_all(&mut server).await.unwrap().len(), FLOOD_BYTES);
    drop(server);
    assert_eq!(flood.await.unwrap(), b"");
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_of_an_older_epoch_leads_nowhere() {
    let way = Way::open().await;
    let connect = async |epoch| {
        let mut framed = Framed::new(way.dial.dial().await.unwrap());
        let to = vec![way.service.local_addr().unwrap()];
        framed.put_json(Kind::Connect, &Connect { epoch, to });
        framed.flush().await.unwrap();
        framed
    };
    let mut old = connect(EPOCH - 1).await;
    assert!(old.next().await.unwrap().is_none(), "the agent ends it");
    let _current = connect(EPOCH).await;
    // The control: it is the first that comes.
    way.service.accept().await.unwrap();
}

#[tokio::test]
async fn pieces_are_whole_up_to_the_last_one_or_an_error() {
    let unpacked = async |packed: &[u8]| {
        let mut out = Vec::new();
        let ended = unpack(packed, &mut out).await.map_err(|error| error.kind());
        (out, ended)
    };
    let cut_off = || Err(ErrorKind::UnexpectedEof);
    for (packed, out, ended) in [
        (&b""[..], &b""[..], cut_off()),
        (b"\0\0\0\0", b"", Ok(())),
        (b"\0\0\0", b"", cut_off()),
        (b"\x02\0\0\0ab", b"ab", cut_off()),
        (b"\x02\0\0\0ab\x01\0\0\0c\0\0\0\0", b"abc", Ok(())),
        // What follows the last piece is nobody's.
        (b"\x01\0\0\0a\0\0\0\0\x01\0\0\0b", b"a", Ok(())),
        // No length is believed.
        (b"\xff\xff\xff\xffab", b"ab", cut_off()),
    ] {
        assert_eq!(unpacked(packed).await, (out.to_vec(), ended), "{packed:?}");
    }
    for length in [0, 1, PIECE_BYTES_MAX, PIECE_BYTES_MAX + 1, 5 * PIECE_BYTES_MAX] {
        let mut packed = Vec::new();
        pack(&bytes(length)[..], &mut packed).await.unwrap();
        assert_eq!(unpacked(&packed).await, (bytes(length), Ok(())));
    }
}
