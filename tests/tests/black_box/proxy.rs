//! A way to a server on loopback that can be stalled and cut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::{Condvar, Mutex};

use anyhow::Result;

/// What becomes of bytes on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Open,
    /// They wait, and so do new connections.
    Stalled,
    /// Connections end, new ones too.
    Cut,
}

/// Listens on a port of its own and passes everything on; ends with its process.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    way: Way,
    connections: Vec<TcpStream>,
}

impl Proxy {
    pub fn start(to: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let state = State {
            way: Way::Open,
            connections: Vec::new(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for incoming in listener.incoming().flatten() {
                // What cannot be passed on ends here; the client sees it.
                let _ = accepting.connect(incoming, to);
            }
        });
        Ok(Self { port, shared })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on.
    pub fn set(&self, way: Way) {
        let mut state = self.shared.state.lock().expect("no thread panics");
        state.way = way;
        if way == Way::Cut {
            for connection in state.connections.drain(..) {
                let _ = connection.shutdown(Shutdown::Both);
            }
        }
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// Waits while the way is stalled; whether it is open then.
    fn pass(&self) -> bool {
        let state = self.state.lock().expect("no thread panics");
        let stalled = |state: &mut State| state.way == Way::Stalled;
        let state = self.changed.wait_while(state, stalled).expect("no thread panics");
        state.way == Way::Open
    }

    fn connect(self: &Arc<Self>, client: TcpStream, to: u16) -> std::io::Result<()> {
        let server = TcpStream::connect(("127.0.0.1", to))?;
        let mut state = self.state.lock().expect("no thread panics");
        if state.way == Way::Cut {
            return Ok(());
        }
        for (from, to) in [(&client, &server), (&server, &client)] {
            state.connections.push(from.try_clone()?);
            let (from, to, shared) = (from.try_clone()?, to.try_clone()?, Arc::clone(self));
            std::thread::spawn(move || shared.pump(from, to));
        }
        Ok(())
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 64 * 1024];
        while let Ok(count) = from.read(&mut buffer) {
            if count == 0 || !self.pass() || to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}
