//! A relay that delays traffic to a registry, as a distant one would.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

/// Round-trip time.
const ROUND_TRIP: Duration = Duration::from_millis(50);

/// A TCP relay that delays each piece by half of a round trip.
pub struct Relay {
    pub host: String,
}

impl Relay {
    /// Serves until the process ends.
    pub fn start(registry: &str) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (host, registry) = (listener.local_addr()?.to_string(), registry.to_owned());
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(&registry) else { continue };
                let ends = (near.try_clone(), far.try_clone());
                if let (Ok(near_too), Ok(far_too)) = ends {
                    thread::spawn(move || carry(near, far));
                    thread::spawn(move || carry(far_too, near_too));
                }
            }
        });
        Ok(Self { host })
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        thread::sleep(ROUND_TRIP / 2);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // The reader must learn that the stream has ended.
    drop(to.shutdown(Shutdown::Write));
}
