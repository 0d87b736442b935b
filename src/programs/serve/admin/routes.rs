//! Which answer a path has.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::atomic::Ordering;

use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use ipnet::Ipv6Net;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use crate::programs::options::{clients, length, not_too_wide};
use crate::programs::prometheus;
use crate::programs::report::ErrorReport;
use crate::programs::serve::admin::asked::{self, NotTold};
use crate::programs::serve::admin::bans::{self, BanError};
use crate::programs::serve::admin::body::AdminBody;
use crate::programs::serve::admin::events::Hearing;
use crate::programs::serve::admin::guard::{self, Door, Refusal};
use crate::programs::serve::admin::tables::NotDropped;
use crate::programs::serve::admin::{AdminShared, bans_followed, metrics, page, status, tables};
use crate::programs::serve::bans::NotBanned;
use crate::programs::serve::inquiry::NoAnswer;

/// Tables in an answer, unless it is said otherwise, and the most that can be asked for.
const TABLES_DEFAULT: usize = 1000;
const TABLES_MAX: usize = 10_000;

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
const TEXT: &str = "text/plain; charset=utf-8";

type HttpAnswer = Response<AdminBody>;

/// Answers a request.
pub async fn answer(shared: &AdminShared, door: Door, request: Request<Incoming>) -> HttpAnswer {
    // Nothing that is asked has a body.
    let (parts, _) = request.into_parts();
    if let Err(refusal) = guard::check(door, shared.token.as_deref(), &parts) {
        shared.state.counts.requests_refused.fetch_add(1, Ordering::Relaxed);
        return refused(refusal);
    }
    let query = query_of(parts.uri.query().unwrap_or_default());
    let path: Vec<_> = parts.uri.path().trim_start_matches('/').split('/').collect();
    let is_get = parts.method == Method::GET || parts.method == Method::HEAD;
    match path[..] {
        ["tables", nat64, "drop"] => match (parts.method == Method::POST, nat64.parse()) {
            (false, _) => not_allowed("POST"),
            (true, Err(_)) => failed(StatusCode::BAD_REQUEST, "a NAT64 has an IPv4 address"),
            (true, Ok(nat64)) => dropped(shared, nat64).await,
        },
        ["ban" | "unban"] if parts.method != Method::POST => not_allowed("POST"),
        ["ban"] => ban(shared, &query).await,
        ["unban"] => unban(shared, &query).await,
        ["fleet", "drain"] if parts.method != Method::POST => not_allowed("POST"),
        ["fleet", "drain"] => drained(shared).await,
        // Who keeps out the banned is on this host.
        ["bans", "ports" | "ended"] if door != Door::Unix => {
            failed(StatusCode::FORBIDDEN, "that is told at the admin socket alone")
        }
        ["bans", "ended"] if parts.method != Method::POST => not_allowed("POST"),
        ["bans", "ended"] => ended(shared, &query).await,
        _ if !is_get => not_allowed("GET"),
        ["bans", "ports"] => {
            told(Ok::<_, NoAnswer>(bans_followed::ports(shared, heard(&query)).await), None)
        }
        ["bans"] => match large(shared, door) {
            Ok(permit) => json(StatusCode::OK, &bans::all(shared).await, Some(permit)),
            Err(refusal) => refused(refusal),
        },
        ["healthz"] => health(shared).await,
        ["readyz"] => readiness(shared).await,
        ["metrics"] => text(StatusCode::OK, prometheus::TYPE, metrics::metrics(shared).await),
        ["status"] => match tables_wanted(&query) {
            Ok(most @ ..=TABLES_DEFAULT) => {
                json(StatusCode::OK, &status::status(shared, most).await, None)
            }
            Ok(most) => match large(shared, door) {
                Ok(permit) => {
                    json(StatusCode::OK, &status::status(shared, most).await, Some(permit))
                }
                Err(refusal) => refused(refusal),
            },
            Err(refusal) => refused(refusal),
        },
        ["hour"] => {
            let hour = shared.with_samples(|samples| samples.hour());
            json(StatusCode::OK, &hour, None)
        }
        ["identities"] => match (tables_wanted(&query), large(shared, door)) {
            (Ok(most), Ok(permit)) => told(tables::identities(shared, most).await, Some(permit)),
            (Err(refusal), _) | (_, Err(refusal)) => refused(refusal),
        },
        ["tables", nat64] => table(shared, door, nat64, &query).await,
        [""] => page_itself(),
        ["events"] => events_from_now(shared, door),
        ["who"] => who_it_was(shared, door, &query).await,
        _ => failed(
            StatusCode::NOT_FOUND,
            "there are /, /status, /hour, /bans, /events, /who?about=WHO&at=TIME, /identities, /tables/NAT64, /metrics, /healthz and /readyz here",
        ),
    }
}

async fn table(
    shared: &AdminShared,
    door: Door,
    nat64: &str,
    query: &BTreeMap<String, String>,
) -> HttpAnswer {
    let bad = |text| failed(StatusCode::BAD_REQUEST, text);
    let Ok(nat64) = nat64.parse::<Ipv4Addr>() else { return bad("a NAT64 has an IPv4 address") };
    let clients = query.get("client").map(|client| Ipv6Net::from_str(client));
    let Ok(clients) = clients.transpose() else {
        return bad("client= wants an IPv6 prefix, like 2001:db8:17::/64");
    };
    let permit = match large(shared, door) {
        Ok(permit) => permit,
        Err(refusal) => return refused(refusal),
    };
    match tables::entries(shared, nat64, clients).await {
        Ok(Some(report)) => json(StatusCode::OK, &report, Some(permit)),
        Ok(None) => failed(StatusCode::NOT_FOUND, &NotDropped::NoTable(nat64).to_string()),
        Err(error) => told::<()>(Err(error), None),
    }
}

async fn dropped(shared: &AdminShared, nat64: Ipv4Addr) -> HttpAnswer {
    let status = match tables::drop_all(shared, nat64).await {
        Ok(report) => return json(StatusCode::OK, &report, None),
        Err(NotDropped::NoTable(_)) => (StatusCode::NOT_FOUND, NotDropped::NoTable(nat64)),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error),
    };
    failed(status.0, &status.1.to_string())
}

/// What is asked for has these parts alone, of which `flags` have no value.
fn only(query: &BTreeMap<String, String>, values: &[&str], flags: &[&str]) -> Result<(), String> {
    for (key, value) in query {
        let is_flag = flags.contains(&key.as_str());
        if !is_flag && !values.contains(&key.as_str()) {
            return Err(format!(
                "there is no {key}= here; there are {} {}",
                values.join("= "),
                flags.join(" ")
            ));
        }
        if is_flag && !value.is_empty() {
            return Err(format!("{key} has no value: it is there, or not"));
        }
    }
    Ok(())
}

async fn drained(shared: &AdminShared) -> HttpAnswer {
    match status::drain(shared).await {
        Ok(report) => json(StatusCode::OK, &report, None),
        Err(why) => failed(StatusCode::CONFLICT, &why),
    }
}

async fn ban(shared: &AdminShared, query: &BTreeMap<String, String>) -> HttpAnswer {
    if let Err(why) = only(query, &["client", "for"], &["wide", "kill"]) {
        return failed(StatusCode::BAD_REQUEST, &why);
    }
    let is_wide = query.contains_key("wide");
    let net = asked_clients(query).and_then(|net| not_too_wide(net, is_wide).map(|()| net));
    let length = query.get("for").map(|text| length(text)).transpose();
    match (net, length) {
        (Ok(net), Ok(length)) => {
            changed(bans::ban(shared, net, length, query.contains_key("kill")).await)
        }
        (Err(why), _) | (_, Err(why)) => failed(StatusCode::BAD_REQUEST, &why),
    }
}

async fn unban(shared: &AdminShared, query: &BTreeMap<String, String>) -> HttpAnswer {
    if let Err(why) = only(query, &["client"], &[]) {
        return failed(StatusCode::BAD_REQUEST, &why);
    }
    match asked_clients(query) {
        Ok(net) => changed(bans::unban(shared, net).await),
        Err(why) => failed(StatusCode::BAD_REQUEST, &why),
    }
}

/// What whoever asks for the ports of banned clients has heard: `after=INSTANCE.VERSION`.
fn heard(query: &BTreeMap<String, String>) -> Option<(u64, u64)> {
    let (instance, version) = query.get("after")?.split_once('.')?;
    Some((instance.parse().ok()?, version.parse().ok()?))
}

async fn ended(shared: &AdminShared, query: &BTreeMap<String, String>) -> HttpAnswer {
    let number = |name: &str| query.get(name).and_then(|text| text.parse().ok());
    let result = match (number("count"), query.get("error")) {
        (Some(count), None) => Ok(count),
        (None, Some(error)) => Err(error.clone()),
        _ => return failed(StatusCode::BAD_REQUEST, "this wants count= or error="),
    };
    let Some(order) = number("order") else {
        return failed(StatusCode::BAD_REQUEST, "order= wants a whole number");
    };
    shared.bans.followed.ended(order, result).await;
    json(StatusCode::OK, &BTreeMap::<String, String>::new(), None)
}

fn asked_clients(query: &BTreeMap<String, String>) -> Result<Ipv6Net, String> {
    clients(query.get("client").map_or("", |client| client.trim()))
}

fn changed(report: Result<impl Serialize, BanError>) -> HttpAnswer {
    match report {
        Ok(report) => json(StatusCode::OK, &report, None),
        Err(error) => {
            let status = match error {
                BanError::NotBanned(NotBanned::TooMany) => StatusCode::CONFLICT,
                BanError::NotBanned(_) => StatusCode::NOT_FOUND,
                BanError::NotKept(_) | BanError::Late(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            failed(status, &error.to_string())
        }
    }
}

fn page_itself() -> HttpAnswer {
    match page::page() {
        Ok((page, headers)) => {
            let mut answer = text(StatusCode::OK, page::HTML, page);
            answer.headers_mut().extend(headers);
            answer
        }
        Err(error) => failed(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

fn events_from_now(shared: &AdminShared, door: Door) -> HttpAnswer {
    let Some(Hearing { messages, cut_off }) = shared.state.listeners.add(door) else {
        let text = "too many listen already; ask again in a while";
        return failed(StatusCode::SERVICE_UNAVAILABLE, text);
    };
    let mut answer = made(StatusCode::OK, EVENTS, AdminBody::of_messages(messages));
    answer.extensions_mut().insert(cut_off);
    answer
}

async fn who_it_was(
    shared: &AdminShared,
    door: Door,
    query: &BTreeMap<String, String>,
) -> HttpAnswer {
    match asked::who(shared, door, query).await {
        Ok(report) => json(StatusCode::OK, &report, None),
        Err(NotTold::Question(why)) => failed(StatusCode::BAD_REQUEST, &why),
        Err(NotTold::Failed(why)) => failed(StatusCode::SERVICE_UNAVAILABLE, &why),
        Err(NotTold::Busy) => failed(
            StatusCode::SERVICE_UNAVAILABLE,
            "another question is being answered; ask again in a while",
        ),
    }
}

/// Every reactor makes turns.
async fn health(shared: &AdminShared) -> HttpAnswer {
    let lines = status::not_answering(shared).await;
    of_lines("alive", &lines)
}

/// New clients are answered.
async fn readiness(shared: &AdminShared) -> HttpAnswer {
    let lines = status::not_ready(shared).await;
    of_lines("ready", &lines)
}

fn of_lines(good: &str, lines: &[String]) -> HttpAnswer {
    match lines.is_empty() {
        true => text(StatusCode::OK, TEXT, format!("{good}\n")),
        false => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, lines.join("\n") + "\n"),
    }
}

/// One of the few places for large answers.
fn large(shared: &AdminShared, door: Door) -> Result<OwnedSemaphorePermit, Refusal> {
    shared.state.large.take(door).ok_or(Refusal {
        status: StatusCode::SERVICE_UNAVAILABLE,
        text: "others are being told as much; ask again in a while",
    })
}

fn query_of(query: &str) -> BTreeMap<String, String> {
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// How many tables are asked for.
fn tables_wanted(query: &BTreeMap<String, String>) -> Result<usize, Refusal> {
    let number = query.get("tables").map_or(Ok(TABLES_DEFAULT), |number| number.parse::<usize>());
    number.map(|number| number.min(TABLES_MAX)).map_err(|_| Refusal {
        status: StatusCode::BAD_REQUEST,
        text: "tables= wants a whole number",
    })
}

fn told<T: Serialize>(
    report: Result<T, NoAnswer>,
    permit: Option<OwnedSemaphorePermit>,
) -> HttpAnswer {
    match report {
        Ok(report) => json(StatusCode::OK, &report, permit),
        Err(error) => failed(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

fn json(
    status: StatusCode,
    report: &impl Serialize,
    permit: Option<OwnedSemaphorePermit>,
) -> HttpAnswer {
    match serde_json::to_vec(report) {
        Ok(octets) => made(status, JSON, AdminBody::new(octets, permit)),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, TEXT, error.to_string()),
    }
}

fn failed(status: StatusCode, text: &str) -> HttpAnswer {
    json(status, &ErrorReport { error: text.to_owned() }, None)
}

fn refused(Refusal { status, text }: Refusal) -> HttpAnswer {
    let mut answer = failed(status, text);
    if status == StatusCode::UNAUTHORIZED {
        let how = HeaderValue::from_static("Basic realm=\"nat64handoff\", charset=\"UTF-8\"");
        answer.headers_mut().insert(WWW_AUTHENTICATE, how);
    }
    answer
}

fn not_allowed(method: &'static str) -> HttpAnswer {
    let mut answer = failed(StatusCode::METHOD_NOT_ALLOWED, &format!("this wants {method}"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(method));
    answer
}

fn text(status: StatusCode, kind: &'static str, text: String) -> HttpAnswer {
    made(status, kind, AdminBody::new(text, None))
}

fn made(status: StatusCode, kind: &'static str, body: AdminBody) -> HttpAnswer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
