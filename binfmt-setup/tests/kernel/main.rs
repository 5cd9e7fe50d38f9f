//! The real program against the real kernel, in private namespaces. Nothing here is a mock, and nothing here needs
//! root: each test runs as the user that started it, and where that is root, the important ones run as nobody, too.

#![expect(clippy::unwrap_used, reason = "in a test the panic is the report")]

mod crash;
mod crowd;
mod faults;
mod oracle;
mod persist;
mod platforms;
mod register;
mod world;
