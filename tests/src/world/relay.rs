//! Forwarding out of a network namespace, from a loopback address inside to the same one of the host, and into it, from an
//! address of the host to a unix socket.

use std::fs::File;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

/// Forwards a free port of 127.0.0.2 to a unix socket, like an engine on another machine, until it is dropped.
pub struct UnixSocketRelay {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UnixSocketRelay {
    /// # Panics
    /// If there is no free port.
    pub fn open(socket: &Path) -> UnixSocketRelay {
        let listener = TcpListener::bind("127.0.0.2:0").expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound socket has an address");
        listener.set_nonblocking(true).expect("a socket");
        let stopping = Arc::new(AtomicBool::new(false));
        let (stop, socket) = (Arc::clone(&stopping), socket.to_owned());
        let thread = thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((outer, _)) => drop(connect_to_socket(outer, &socket)),
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        UnixSocketRelay { address, stopping, thread: Some(thread) }
    }

    /// `127.0.0.2:PORT`
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for UnixSocketRelay {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.thread.take().map(JoinHandle::join);
    }
}

fn connect_to_socket(outer: TcpStream, socket: &Path) -> io::Result<()> {
    outer.set_nonblocking(false)?;
    let inner = UnixStream::connect(socket)?;
    let (mut from_outer, mut to_inner) = (outer.try_clone()?, inner.try_clone()?);
    thread::spawn(move || {
        drop(io::copy(&mut from_outer, &mut to_inner));
        drop(to_inner.shutdown(Shutdown::Write));
    });
    let (mut from_inner, mut to_outer) = (inner, outer);
    thread::spawn(move || {
        drop(io::copy(&mut from_inner, &mut to_outer));
        drop(to_outer.shutdown(Shutdown::Both));
    });
    Ok(())
}

/// Listens inside on an address and connects to the same address outside. Ends when dropped.
pub struct Relay {
    stopping: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// `id` is a process in the network namespace.
    ///
    /// # Panics
    /// If the address is taken in there.
    pub fn start(id: u32, address: SocketAddr) -> Relay {
        let stopping = Arc::new(AtomicBool::new(false));
        let open = Arc::new(Mutex::new(Vec::new()));
        let (accepted, incoming) = mpsc::channel::<TcpStream>();
        let (ready, listening) = mpsc::channel::<io::Result<()>>();
        let stop = Arc::clone(&stopping);
        // The namespace is a property of the thread, and threads that it starts inherit it: hence one thread inside that only
        // accepts, and one outside that connects.
        let inside = thread::spawn(move || {
            let listener = match listen_in(id, address) {
                Ok(listener) => listener,
                Err(error) => {
                    drop(ready.send(Err(error)));
                    return;
                }
            };
            drop(ready.send(Ok(())));
            while !stop.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((stream, _)) => drop(accepted.send(stream)),
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        let streams = Arc::clone(&open);
        let outside = thread::spawn(move || {
            // Ends when the thread inside has ended.
            for inner in incoming {
                if let Err(error) = join(inner, address, &streams) {
                    eprintln!("relay to {address}: {error}");
                }
            }
        });
        let began = listening.recv().unwrap_or_else(|_| Err(io::Error::other("its thread has ended")));
        began.unwrap_or_else(|error| panic!("cannot listen on {address} inside: {error}"));
        Relay { stopping, open, threads: vec![inside, outside] }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // Fails if the peer has closed the connection.
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

fn listen_in(id: u32, address: SocketAddr) -> io::Result<TcpListener> {
    setns(File::open(format!("/proc/{id}/ns/net"))?, CloneFlags::CLONE_NEWNET)?;
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Two threads that copy until one side ends.
fn join(inner: TcpStream, address: SocketAddr, open: &Mutex<Vec<TcpStream>>) -> io::Result<()> {
    inner.set_nonblocking(false)?;
    let outer = TcpStream::connect(address)?;
    for (mut from, mut to) in
        [(inner.try_clone()?, outer.try_clone()?), (outer.try_clone()?, inner.try_clone()?)]
    {
        thread::spawn(move || {
            // An error ends the connection, which the peer sees.
            drop(io::copy(&mut from, &mut to));
            drop(to.shutdown(Shutdown::Write));
        });
    }
    open.lock().unwrap_or_else(PoisonError::into_inner).extend([inner, outer]);
    Ok(())
}
