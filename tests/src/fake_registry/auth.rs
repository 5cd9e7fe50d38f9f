//! Authentication: Basic, or Bearer with a token server that grants scopes for a limited time.
//!
//! A token permits exactly what it was granted: the response to a push with a pull token is 401 `insufficient_scope`, as
//! from Docker Hub, GHCR and Harbor, and not 403.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::http::{Request, Response, form};
use super::routes::Route;

/// Authentication of clients by the registry.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    #[default]
    None,
    Basic {
        user: String,
        password: String,
    },
    Bearer(Bearer),
}

/// A token server, and what it grants.
#[derive(Clone, Debug)]
pub struct Bearer {
    pub user: String,
    pub password: String,
    /// Accepted by `POST grant_type=refresh_token` (an identity token). `None`: the response to POST is 404, as from
    /// servers without oauth2, and the client should fall back to GET.
    pub refresh_token: Option<String>,
    /// Grant `pull` to anonymous requests, except in `private` repositories.
    pub anonymous_pull: bool,
    /// Repositories that grant nothing to anonymous requests.
    pub private: Vec<String>,
    /// Repositories without any scope for this user.
    pub forbidden: Vec<String>,
    /// Lifetime of a token; `expires_in` is this in whole seconds.
    pub life: Duration,
    /// Only the first scope of a request is read (as Docker Hub did).
    pub first_scope_only: bool,
}

impl Bearer {
    pub fn new(user: &str, password: &str) -> Self {
        Bearer {
            user: user.to_owned(),
            password: password.to_owned(),
            refresh_token: None,
            anonymous_pull: true,
            private: Vec::new(),
            forbidden: Vec::new(),
            life: Duration::from_secs(300),
            first_scope_only: false,
        }
    }
}

/// The kind of credentials of a request; the value is in [`Credential`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization {
    None,
    Basic,
    Bearer,
    Other,
}

/// Credentials as they arrived, for tests of where a secret is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Number of the request.
    pub number: usize,
    pub listener: super::Listener,
    /// The host and port that the request was sent to, from its Host header.
    pub host: String,
    /// `user:password` of Basic decoded; a Bearer token; a refresh token from a form.
    pub secret: String,
}

/// Actions per repository: `{"a/b": {"pull", "push"}}`.
pub(super) type Grants = BTreeMap<String, BTreeSet<String>>;

struct Token {
    grants: Grants,
    until: Instant,
}

#[derive(Default)]
pub(super) struct Tokens {
    valid: HashMap<String, Token>,
    made: usize,
}

impl Tokens {
    pub(super) fn mint(&mut self, grants: Grants, life: Duration) -> String {
        self.made += 1;
        // Looks like a JWT and is not one: clients must not depend on its content.
        let token = format!("fake.{}.token", STANDARD.encode(format!("token-{}", self.made)));
        self.valid.insert(token.clone(), Token { grants, until: Instant::now() + life });
        token
    }

    pub(super) fn revoke_all(&mut self) {
        self.valid.clear();
    }
}

pub(super) fn kind_of(request: &Request) -> Authorization {
    match request.header("authorization").and_then(|value| value.split_whitespace().next()) {
        None => Authorization::None,
        Some(scheme) if scheme.eq_ignore_ascii_case("basic") => Authorization::Basic,
        Some(scheme) if scheme.eq_ignore_ascii_case("bearer") => Authorization::Bearer,
        Some(_) => Authorization::Other,
    }
}

/// The readable secret of an Authorization header.
pub(super) fn secret_of(header: &str) -> String {
    let (scheme, value) = header.split_once(' ').unwrap_or(("", header));
    if !scheme.eq_ignore_ascii_case("basic") {
        return value.to_owned();
    }
    let decoded = STANDARD.decode(value.trim()).ok();
    decoded.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_else(|| value.to_owned())
}

/// `repository:NAME:ACTION,ACTION`, several in one value separated by spaces. Other kinds of scope grant nothing.
pub(super) fn parse_scopes<'a>(values: impl IntoIterator<Item = &'a str>) -> Grants {
    let mut grants = Grants::new();
    for scope in values.into_iter().flat_map(str::split_whitespace) {
        let Some(rest) = scope.strip_prefix("repository:") else { continue };
        let Some((name, actions)) = rest.rsplit_once(':') else { continue };
        grants.entry(name.to_owned()).or_default().extend(actions.split(',').map(str::to_owned));
    }
    grants
}

/// The scopes that the request needs; mounting a blob also reads its source repository.
fn needed(request: &Request) -> Grants {
    let mut needed = Grants::new();
    let Some(repository) = Route::of(request.route()).repository().map(str::to_owned) else { return needed };
    let actions: &[&str] = match request.method.as_str() {
        "GET" | "HEAD" => &["pull"],
        "DELETE" if !request.is_upload() => &["delete"],
        _ => &["pull", "push"],
    };
    needed.entry(repository).or_default().extend(actions.iter().map(|action| (*action).to_owned()));
    if let (Some(_), Some(from)) = (request.query("mount"), request.query("from")) {
        needed.entry(from).or_default().insert("pull".to_owned());
    }
    needed
}

/// # Errors
/// The 401 response.
pub(super) fn admit(auth: &Auth, tokens: &Tokens, realm: &str, request: &Request) -> Result<(), Response> {
    let given = request.header("authorization").unwrap_or_default();
    let refuse = |challenge: String| {
        let error = Response::error(401, "UNAUTHORIZED", "authentication required");
        Err(error.with("WWW-Authenticate", challenge))
    };
    match auth {
        Auth::None => Ok(()),
        Auth::Basic { user, password } => {
            if kind_of(request) == Authorization::Basic && secret_of(given) == format!("{user}:{password}") {
                return Ok(());
            }
            refuse("Basic realm=\"fake registry\"".to_owned())
        }
        Auth::Bearer(_) => {
            let needed = needed(request);
            let scopes: Vec<String> =
                needed.iter().map(|(name, actions)| format!("repository:{name}:{}", join(actions))).collect();
            let mut challenge = format!("Bearer realm=\"{realm}\",service=\"fake\"");
            if !scopes.is_empty() {
                challenge.push_str(&format!(",scope=\"{}\"", scopes.join(" ")));
            }
            let held = match kind_of(request) {
                Authorization::Bearer => tokens.valid.get(&secret_of(given)),
                _ => None,
            };
            let Some(token) = held.filter(|token| Instant::now() < token.until) else {
                if kind_of(request) == Authorization::Bearer {
                    challenge.push_str(",error=\"invalid_token\"");
                }
                return refuse(challenge);
            };
            let enough = needed.iter().all(|(name, actions)| {
                token.grants.get(name).is_some_and(|granted| granted.is_superset(actions))
            });
            if enough {
                return Ok(());
            }
            refuse(challenge + ",error=\"insufficient_scope\"")
        }
    }
}

/// Scopes, secret and response of a token request, for the log.
pub(super) struct TokenRequest {
    pub(super) scopes: Vec<String>,
    pub(super) secret: Option<String>,
    pub(super) response: Response,
}

/// The token server: GET with Basic or without credentials, POST oauth2 with a refresh token or a password.
pub(super) fn token(
    auth: &Auth,
    tokens: &mut Tokens,
    request: &Request,
    body: &mut dyn Read,
) -> TokenRequest {
    let Auth::Bearer(bearer) = auth else {
        let response = Response::error(404, "UNSUPPORTED", "this registry has no token server");
        return TokenRequest { scopes: Vec::new(), secret: None, response };
    };
    let mut scopes = request.queries("scope");
    let mut secret = None;
    let own = format!("{}:{}", bearer.user, bearer.password);
    let user = match (request.method.as_str(), kind_of(request)) {
        ("GET", Authorization::None) => Ok(false),
        ("GET", Authorization::Basic) => {
            let given = secret_of(request.header("authorization").unwrap_or_default());
            if given == own { Ok(true) } else { Err(401) }
        }
        ("POST", _) => {
            let mut text = String::new();
            if body.take(1 << 20).read_to_string(&mut text).is_err() {
                text.clear();
            }
            let fields: HashMap<String, String> = form(&text).into_iter().collect();
            scopes = fields.get("scope").map(|scope| vec![scope.clone()]).unwrap_or_default();
            secret = fields.get("refresh_token").or_else(|| fields.get("password")).cloned();
            match (fields.get("grant_type").map(String::as_str), &bearer.refresh_token) {
                (_, None) => Err(404),
                (Some("refresh_token"), own) if fields.get("refresh_token") == own.as_ref() => Ok(true),
                (Some("password"), _)
                    if fields.get("username") == Some(&bearer.user)
                        && fields.get("password") == Some(&bearer.password) =>
                {
                    Ok(true)
                }
                _ => Err(401),
            }
        }
        _ => Err(401),
    };
    let response = match user {
        Err(status) => Response::error(status, "UNAUTHORIZED", "unknown user or wrong password"),
        Ok(known) => {
            let words: Vec<&str> = scopes.iter().flat_map(|scope| scope.split_whitespace()).collect();
            let heard = if bearer.first_scope_only { &words[..words.len().min(1)] } else { &words[..] };
            let granted = grant(bearer, known, parse_scopes(heard.iter().copied()));
            let token = tokens.mint(granted, bearer.life);
            let mut answer =
                json!({ "token": token, "access_token": token, "expires_in": bearer.life.as_secs() });
            if let (true, Some(refresh)) = (request.method == "POST", &bearer.refresh_token) {
                answer["refresh_token"] = json!(refresh);
            }
            Response::new(200).with("Content-Type", "application/json").bytes(answer.to_string().into_bytes())
        }
    };
    TokenRequest { scopes, secret, response }
}

/// The granted part of the requested scopes: a token server does not refuse a scope, it grants less.
fn grant(bearer: &Bearer, known: bool, mut requested: Grants) -> Grants {
    requested.retain(|name, actions| {
        if bearer.forbidden.contains(name) {
            return false;
        }
        if !known {
            if !bearer.anonymous_pull || bearer.private.contains(name) {
                return false;
            }
            actions.retain(|action| action == "pull");
        }
        !actions.is_empty()
    });
    requested
}

fn join(actions: &BTreeSet<String>) -> String {
    actions.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}
