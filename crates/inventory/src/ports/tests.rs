//! Ports at addresses of their own, which lead to agents and services beside them.

use std::io;
use std::net::Ipv4Addr;

use bowline_agent::channel::memory;
use bowline_agent::{CodeWay, LinkOptions};
use bowline_foundation::clock::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::file::InstanceFile;
use crate::idle::{self, Sandboxes};

const FILE: &str = "id = \"shop\"\nkind = \"vm\"\n[resources]\nmemory_mib = 256\n\
    [[services]]\nname = \"web\"\ncommand = [\"/bin/true\"]\nports = [7070]\n";

async fn link() -> Link {
    let (dial, mut accept) = memory();
    let host = idle::host(Arc::new(Sandboxes));
    tokio::spawn(async move { host.run(&mut accept).await });
    let options = LinkOptions {
        dial: Arc::new(dial),
        epoch: 1,
        lease: Duration::from_secs(60),
        clock: Clock::system(),
        code: CodeWay::Shared,
        memory_mib: None,
        maxima: None,
        made_ahead: None,
    };
    let (link, mut news) = Link::connect(options).await.unwrap();
    tokio::spawn(async move { while news.recv().await.is_some() {} });
    link
}

/// Ports at `127.77.0.at` of an instance whose services are at `127.78.0.at`, where a machine would have its own.
async fn ports(at: u8) -> Ports {
    Ports {
        address: Ipv4Addr::new(127, 77, 0, at).into(),
        way: Arc::new(Way {
            link: link().await,
            hosts: vec![inside(at)],
            slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            metrics: Metrics::default(),
        }),
        open: HashMap::new(),
    }
}

fn inside(at: u8) -> IpAddr {
    Ipv4Addr::new(127, 78, 0, at).into()
}

fn service(name: &str, ports: &[u16]) -> ServiceSpec {
    ServiceSpec {
        name: name.to_owned(),
        command: Vec::new(),
        environment: Default::default(),
        ports: ports.to_vec(),
        health: None,
    }
}

/// A service inside that says something to each who comes, and then listens until they end.
async fn greeter(at: u8, text: &'static str) -> u16 {
    let listener = TcpListener::bind((inside(at), 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(text.as_bytes()).await;
                let _ = stream.read(&mut [0]).await;
            });
        }
    });
    port
}

async fn connect(at: u8, port: u16) -> io::Result<TcpStream> {
    TcpStream::connect((Ipv4Addr::new(127, 77, 0, at), port)).await
}

/// The first word of whoever is behind a port.
async fn greeting(at: u8, port: u16) -> io::Result<(String, TcpStream)> {
    let mut stream = connect(at, port).await?;
    let mut read = [0; 4];
    stream.read_exact(&mut read).await?;
    Ok((String::from_utf8_lossy(&read).into_owned(), stream))
}

fn kind_of<T>(result: io::Result<T>) -> Option<io::ErrorKind> {
    result.err().map(|error| error.kind())
}

#[tokio::test]
async fn a_named_port_leads_to_its_own_instance_and_no_other_port_does() {
    let (mut one, mut two) = (ports(1).await, ports(2).await);
    let port = greeter(1, "ahoy").await;
    let second = TcpListener::bind((inside(2), port)).await.unwrap();
    let unnamed = greeter(1, "none").await;
    one.open(&[service("web", &[port])]).await.unwrap();
    two.open(&[service("web", &[port])]).await.unwrap();
    assert_eq!(greeting(1, port).await.unwrap().0, "ahoy");
    let client = connect(2, port).await.unwrap();
    second.accept().await.expect("it comes to its own service");
    drop(client);
    assert_eq!(
        kind_of(greeting(1, unnamed).await),
        Some(io::ErrorKind::ConnectionRefused)
    );
    // The control: the service is there.
    let mut named = one;
    named.open(&[service("more", &[unnamed])]).await.unwrap();
    assert_eq!(greeting(1, unnamed).await.unwrap().0, "none");
}

#[tokio::test]
async fn a_services_ports_close_with_their_connections_and_open_again() {
    let mut ports = ports(3).await;
    let (web, admin) = (greeter(3, "webs").await, greeter(3, "admi").await);
    let services = [service("web", &[web]), service("admin", &[admin])];
    ports.open(&services).await.unwrap();
    let (mut of_web, mut of_admin) = (greeting(3, web).await.unwrap().1, greeting(3, admin).await.unwrap().1);
    ports.close(Some("web")).await;
    assert_eq!(
        kind_of(of_web.read(&mut [0]).await),
        Some(io::ErrorKind::ConnectionReset)
    );
    assert_eq!(kind_of(connect(3, web).await), Some(io::ErrorKind::ConnectionRefused));
    assert_eq!(greeting(3, admin).await.unwrap().0, "admi", "the control: others stay");
    ports.open(&services).await.unwrap();
    assert_eq!(greeting(3, web).await.unwrap().0, "webs");
    assert!(of_admin.write_all(b"x").await.is_ok());
    assert_eq!(of_admin.read(&mut [0]).await.unwrap(), 0, "it ended by itself");
    ports.close(None).await;
    for port in [web, admin] {
        assert_eq!(kind_of(connect(3, port).await), Some(io::ErrorKind::ConnectionRefused));
    }
}

#[tokio::test]
async fn a_connection_that_is_one_too_many_is_reset() {
    let mut ports = ports(4).await;
    let port = greeter(4, "ahoy").await;
    ports.open(&[service("web", &[port])]).await.unwrap();
    let way = ports.way.clone();
    let others = u32::try_from(CONNECTIONS_MAX - 1).unwrap();
    let _others = way.slots.clone().acquire_many_owned(others).await.unwrap();
    let (last, stream) = greeting(4, port).await.unwrap();
    assert_eq!((last.as_str(), way.metrics.connections.get()), ("ahoy", 1));
    assert_eq!(kind_of(greeting(4, port).await), Some(io::ErrorKind::ConnectionReset));
    assert_eq!(way.metrics.connections_refused.get(), 1);
    // The control: one that ends makes room.
    drop(stream);
    while way.metrics.connections.get() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(greeting(4, port).await.unwrap().0, "ahoy");
}

#[tokio::test]
async fn a_port_that_somebody_has_is_told() {
    let mut ports = ports(5).await;
    let somebody = TcpListener::bind((ports.address, 0)).await.unwrap();
    let port = somebody.local_addr().unwrap().port();
    let services = [service("web", &[port])];
    let refused = ports.open(&services).await.unwrap_err();
    assert!(
        refused.contains(&format!("cannot listen at 127.77.0.5:{port}")),
        "{refused}"
    );
    drop(somebody);
    ports.open(&services).await.expect("the control: nobody has it");
}

#[tokio::test]
async fn only_the_ports_of_virtual_machines_are_the_nodes() {
    let link = link().await;
    let server = |text: &str| -> Server {
        let effective = InstanceFile::parse(text).unwrap().effective(None).unwrap();
        let address = effective.has_address().then_some("127.77.0.6");
        let record = serde_json::json!({
            "id": "00000000000000aa", "state": "RUNNING", "since": 7, "address": address, "revision": 1,
            "digest": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "effective": effective,
            "replaces": null, "epoch": 1, "repairs": 0, "detail": null,
        });
        serde_json::from_value(record).unwrap()
    };
    let of = |server: &Server| Ports::of(server, &link, &Metrics::default());
    let machine = server(FILE);
    let ports = of(&machine).expect("a virtual machine's are");
    assert_eq!(ports.way.slots.available_permits(), CONNECTIONS_MAX);
    let own: IpAddr = "127.77.0.6".parse().unwrap();
    assert_eq!(ports.way.hosts, [own, Ipv4Addr::LOCALHOST.into()]);
    let process = server(&FILE.replace("\"vm\"", "\"process\""));
    assert!(of(&process).is_none(), "a process listens by itself");
    assert_eq!(process.hosts(), [own]);
    let silent = server(&FILE.replace("ports = [7070]", ""));
    assert!(of(&silent).is_none() && silent.address.is_none(), "nothing is reached");
    assert_eq!(silent.hosts(), [IpAddr::from(Ipv4Addr::LOCALHOST)]);
}
