//! One connection: reads requests, applies faults, sends responses.

use std::io::{self, BufReader};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::auth::{self, Authorization, Credential};
use super::http::{self, Body, Listener, Payload, Request, Response, Sending};
use super::log::Logged;
use super::{Act, Shared, When, lock, routes};

/// State of the connection after a request.
enum Next {
    KeepAlive,
    /// FIN.
    Close,
    /// RST.
    Reset,
}

pub(super) fn serve(shared: &Shared, listener: Listener, stream: &TcpStream, connection: usize) {
    // Small responses must not wait for the peer's delayed ACK.
    drop(stream.set_nodelay(true));
    let Ok(twin) = stream.try_clone() else { return };
    let mut reader = BufReader::new(twin);
    loop {
        let mut request = match http::read_head(&mut reader) {
            Ok(Some(request)) => request,
            Ok(None) => break,
            Err(error) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    shared.violation(format!("malformed request: {error}"));
                }
                break;
            }
        };
        if shared.stopping.load(Ordering::SeqCst) {
            break;
        }
        request.number = shared.requests.fetch_add(1, Ordering::SeqCst) + 1;
        request.listener = listener;
        enter(shared, &request, connection);
        match one(shared, &request, &mut reader, stream) {
            Ok(Next::KeepAlive) => {}
            // An error here means that the peer has closed the connection.
            Ok(Next::Close) | Err(_) => break,
            Ok(Next::Reset) => {
                reset(stream);
                return;
            }
        }
    }
    drop(stream.shutdown(Shutdown::Both));
}

fn one(
    shared: &Shared,
    request: &Request,
    reader: &mut BufReader<TcpStream>,
    mut stream: &TcpStream,
) -> io::Result<Next> {
    let framing = match http::framing(request) {
        Ok(framing) => framing,
        Err(why) => {
            shared.violation(format!("request {}: {why}", request.number));
            let refused = Response::error(400, "UNSUPPORTED", why);
            finish(shared, request, Some(refused.status), 0, refused.payload.len());
            http::write_response(&mut stream, &refused, Sending::default(), true)?;
            return Ok(Next::Close);
        }
    };
    let waits = request.header("expect").is_some_and(|expect| expect.eq_ignore_ascii_case("100-continue"));
    let mut body = Body::new(reader, framing, waits.then_some(stream));
    let acts = shared.script.met_by(request);
    hooks(shared, request, When::Before);

    let mut instead = None;
    let mut lost = false;
    let mut cut = false;
    for act in &acts {
        match act {
            Act::Delay(pause) => wait(shared, *pause),
            Act::ResetBefore => return Ok(Next::Reset),
            Act::CloseBefore => {
                // Unread bytes would turn the FIN into an RST.
                io::copy(&mut body, &mut io::sink())?;
                return Ok(Next::Close);
            }
            Act::CutRequest(bytes) => {
                body.cut_after(*bytes);
                cut = true;
            }
            Act::LostAnswer => lost = true,
            Act::Answer { status, headers, body } => {
                let mut scripted = Response::new(*status).bytes(body.clone());
                scripted.headers.clone_from(headers);
                instead = Some(scripted);
            }
            Act::Redirect { status, location } => {
                let to = location.replace("{path}", &request.path);
                instead = Some(Response::new(*status).with("Location", to));
            }
            Act::TruncateBody(_)
            | Act::ResetBody(_)
            | Act::SetHeader(..)
            | Act::DropHeader(_)
            | Act::SetBody(_)
            | Act::FlipBit(_)
            | Act::Trickle(_) => {}
        }
    }

    let mut response = match instead {
        Some(scripted) => scripted,
        None => process(shared, request, &mut body),
    };
    if cut {
        finish(shared, request, None, body.taken(), 0);
        return Ok(Next::Reset);
    }
    // A real server would disconnect a client that still sends; here the response should arrive, so the rest is read.
    let drained = io::copy(&mut body, &mut io::sink());
    let mut sending = Sending { head_only: request.method == "HEAD", ..Sending::default() };
    let mut next = if request.keep_alive && drained.is_ok() { Next::KeepAlive } else { Next::Close };
    for act in &acts {
        match act {
            Act::SetHeader(name, value) => response.set_header(name, value),
            Act::DropHeader(name) => response.remove_header(name),
            Act::SetBody(bytes) => response.payload = Payload::Bytes(bytes.clone()),
            Act::FlipBit(place) => sending.flip = Some(*place),
            Act::Trickle(pause) => sending.pause = Some(*pause),
            Act::TruncateBody(bytes) => (sending.stop_after, next) = (Some(*bytes), Next::Close),
            Act::ResetBody(bytes) => (sending.stop_after, next) = (Some(*bytes), Next::Reset),
            Act::Answer { .. }
            | Act::ResetBefore
            | Act::CloseBefore
            | Act::CutRequest(_)
            | Act::LostAnswer
            | Act::Delay(_)
            | Act::Redirect { .. } => {}
        }
    }
    let sent = if sending.head_only || lost {
        0
    } else {
        response.payload.len().min(sending.stop_after.unwrap_or(u64::MAX))
    };
    // Before the response is sent, so that a test that has the response finds the request in the log.
    finish(shared, request, (!lost).then_some(response.status), body.taken(), sent);
    hooks(shared, request, When::After);
    if lost {
        return Ok(Next::Reset);
    }
    let close = matches!(next, Next::Close);
    http::write_response(&mut stream, &response, sending, close && sending.stop_after.is_none())?;
    Ok(next)
}

fn process<R: io::BufRead>(shared: &Shared, request: &Request, body: &mut Body<'_, R>) -> Response {
    match request.listener {
        Listener::Blobs => routes::storage(shared, request),
        Listener::Token => {
            let answer = auth::token(&shared.options.auth, &mut lock(&shared.tokens), request, body);
            let mut log = lock(&shared.log);
            if let Some(secret) = answer.secret {
                let host = request.header("host").unwrap_or_default().to_owned();
                let listener = request.listener;
                log.credentials.push(Credential { number: request.number, listener, host, secret });
            }
            if let Some(logged) = log.of(request.number) {
                logged.scopes = answer.scopes;
            }
            answer.response
        }
        Listener::Registry => {
            let admitted = auth::admit(&shared.options.auth, &lock(&shared.tokens), &shared.realm, request);
            match admitted {
                Ok(()) => routes::answer(shared, request, body),
                Err(refused) => refused,
            }
        }
    }
}

/// Writes the request into the log before anything happens to it.
fn enter(shared: &Shared, request: &Request, connection: usize) {
    let authorization = auth::kind_of(request);
    let mut log = lock(&shared.log);
    log.entries.push(Logged {
        number: request.number,
        listener: request.listener,
        connection,
        method: request.method.clone(),
        path: request.path.clone(),
        repository: request.repository(),
        status: None,
        authorization,
        scopes: Vec::new(),
        request_bytes: 0,
        response_bytes: 0,
    });
    if authorization != Authorization::None
        && let Some(header) = request.header("authorization")
    {
        let host = request.header("host").unwrap_or_default().to_owned();
        let secret = auth::secret_of(header);
        log.credentials.push(Credential { number: request.number, listener: request.listener, host, secret });
    }
}

fn finish(shared: &Shared, request: &Request, status: Option<u16>, received: u64, sent: u64) {
    if let Some(logged) = lock(&shared.log).of(request.number) {
        logged.status = status;
        logged.request_bytes = received;
        logged.response_bytes = sent;
    }
}

/// Calls the hooks. No lock is held, because a hook may call any function of the registry.
fn hooks(shared: &Shared, request: &Request, when: When) {
    let hooks = lock(&shared.hooks).clone();
    for hook in hooks {
        hook(request, when);
    }
}

/// Sleeps, but not longer than the registry exists.
fn wait(shared: &Shared, pause: Duration) {
    let until = Instant::now() + pause;
    while Instant::now() < until && !shared.stopping.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(5).min(until.saturating_duration_since(Instant::now())));
    }
}

/// With a linger of zero seconds the last close sends RST. No shutdown before it: that would send FIN.
fn reset(stream: &TcpStream) {
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    // Fails only for a closed socket, which needs no reset.
    let _ = setsockopt(stream, sockopt::Linger, &at_once);
}
