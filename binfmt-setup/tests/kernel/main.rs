//! The program on a real kernel, in private namespaces. No test uses a mock or requires root. If root runs the tests, the
//! important ones are run as nobody as well.

#![expect(clippy::unwrap_used, reason = "in a test the panic is the report")]

mod concurrency;
mod crash;
mod faults;
mod line_format;
mod persist;
mod platforms;
mod register;
mod world;
