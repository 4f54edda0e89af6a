//! Figures for monitoring: what the node knows, as Prometheus text over HTTP, read-only.
//!
//! A scrape asks the driver for one look at the node and writes it down beside it: it decides
//! nothing and holds nothing. Nothing here proves who asks: whoever reaches the address may read it.

use std::{convert::Infallible, fmt::Write, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use moorline_types::ServerId;
use moorline_volume::NodeReport;
use moorline_wire::control::{PeerReport, ReplicaReport, Serving};
use serde::Serialize;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, oneshot},
};

use crate::inbox::{News, Teller};

type Bytes = Full<bytes::Bytes>;

/// Connections served at the same time; the others wait to be accepted.
const CONNECTIONS_MAX: usize = 8;

/// A connection that sends no whole request in this time is closed.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Serves scrapes for as long as the driver lives.
pub(crate) async fn serve(listener: TcpListener, server: ServerId, teller: Teller) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connection = http1::Builder::new();
    connection
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_LIMIT)
        // A scraper comes every few seconds: its place is for others in between.
        .keep_alive(false);
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (server, teller) = (server.clone(), teller.clone());
        let answer = service_fn(move |request| answer(request, server.clone(), teller.clone()));
        let serving = connection.serve_connection(TokioIo::new(stream), answer);
        drop(tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::debug!(%error, "a connection for metrics ended early");
            }
            drop(place);
        }));
    }
}

async fn answer(
    request: Request<Incoming>,
    server: ServerId,
    teller: Teller,
) -> Result<Response<Bytes>, Infallible> {
    if request.method() != Method::GET {
        return Ok(refusal(StatusCode::METHOD_NOT_ALLOWED));
    }
    if request.uri().path() != "/metrics" {
        return Ok(refusal(StatusCode::NOT_FOUND));
    }
    let (ask, answer) = oneshot::channel();
    if teller.send(News::Scraped(ask)).is_err() {
        return Ok(refusal(StatusCode::SERVICE_UNAVAILABLE));
    }
    let Ok(report) = answer.await else {
        return Ok(refusal(StatusCode::SERVICE_UNAVAILABLE));
    };
    let mut response = Response::new(Bytes::from(text(&server, &report)));
    let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

fn refusal(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from("metrics are at /metrics\n"));
    *response.status_mut() = status;
    response
}

/// One metric: its lines stand together, under its help and type.
struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Family<'_> {
    fn line(&mut self, labels: &[(&str, &str)], value: u64) {
        let _written = write!(self.text, "moorline_{}{{", self.name);
        for (n, (label, content)) in labels.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            let _written = write!(self.text, "{comma}{label}=\"{}\"", escaped(content));
        }
        let _written = writeln!(self.text, "}} {value}");
    }
}

fn escaped(content: &str) -> String {
    (content.replace('\\', "\\\\").replace('"', "\\\"")).replace('\n', "\\n")
}

/// A page in the text format, version 0.0.4.
fn text(server: &ServerId, report: &NodeReport) -> String {
    let mut page = Page {
        text: String::new(),
        server: server.as_str(),
        report,
    };
    page.of_server();
    page.of_replicas();
    page.of_peers();
    page.text
}

struct Page<'a> {
    text: String,
    server: &'a str,
    report: &'a NodeReport,
}

impl Page<'_> {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        let text = &mut self.text;
        let _written = writeln!(text, "# HELP moorline_{name} {help}");
        let _written = writeln!(text, "# TYPE moorline_{name} {kind}");
        Family { text, name }
    }

    fn of_server(&mut self) {
        let (server, report) = (self.server, self.report);
        let opening = u64::from(report.stores_opening);
        self.family("stores_opening", "gauge", "Stores found and not open yet.")
            .line(&[("server", server)], opening);
        self.family(
            "master_connected",
            "gauge",
            "1 while the master knows this server.",
        )
        .line(&[("server", server)], u64::from(report.registered));
    }

    /// One line for each replica that has a value.
    fn each(
        &mut self,
        (name, kind, help): (&'static str, &str, &str),
        value: impl Fn(&ReplicaReport) -> Option<u64>,
    ) {
        let (server, report) = (self.server, self.report);
        let mut family = self.family(name, kind, help);
        for (volume, replica) in &report.volumes {
            if let Some(value) = value(replica) {
                family.line(&[("server", server), ("volume", volume)], value);
            }
        }
    }

    fn of_replicas(&mut self) {
        let (server, report) = (self.server, self.report);
        let mut roles = self.family("replica_role", "gauge", "1 for the replica's role.");
        for (volume, replica) in &report.volumes {
            let role = word(&replica.role);
            roles.line(
                &[("server", server), ("volume", volume), ("role", &role)],
                1,
            );
        }
        let gauge = |name, help| (name, "gauge", help);
        let counter = |name, help| (name, "counter", help);
        self.each(
            gauge(
                "promised_epoch",
                "The assignment part of the highest epoch promised.",
            ),
            |r| Some(r.promised.assignment()),
        );
        self.each(gauge("head_lsn", "The last record appended."), |r| {
            Some(r.head.get())
        });
        self.each(
            gauge("flushed_lsn", "Durable in the log through here."),
            |r| Some(r.flushed?.get()),
        );
        self.each(
            gauge("applied_lsn", "The extents may hold changes through here."),
            |r| Some(r.applied.get()),
        );
        self.each(
            gauge(
                "checkpoint_lsn",
                "The extents durably hold everything through here.",
            ),
            |r| Some(r.checkpoint.get()),
        );
        self.each(gauge("tail_lsn", "Records above are retained."), |r| {
            Some(r.tail.get())
        });
        self.each(
            gauge("committed_lsn", "Committed, as this replica knows."),
            |r| Some(r.committed.get()),
        );
        self.each(gauge("log_fill_percent", "How full the log is."), |r| {
            Some(u64::from(r.log_fill_percent))
        });
        self.each(
            gauge(
                "writes_slowed",
                "1 while writers are slowed or stopped because the log fills up.",
            ),
            |r| r.copies.map(|_| u64::from(r.writes_slowed.is_some())),
        );
        self.each(gauge("serving", "1 while clients are served here."), |r| {
            Some(u64::from(r.serving == Serving::Yes))
        });
        self.each(gauge("clients", "NBD connections."), |r| {
            Some(u64::from(r.clients))
        });
        self.each(
            gauge(
                "copies",
                "Copies that the next write will have; of a primary.",
            ),
            |r| r.copies.map(u64::from),
        );
        self.each(gauge("pins", "Holds on the log or the image."), |r| {
            Some(r.pins.len() as u64)
        });
        self.each(gauge("pin_age_max_ms", "Age of the oldest hold."), |r| {
            r.pins.iter().map(|pin| pin.age_ms).max()
        });
        self.each(
            counter(
                "damaged_blocks_total",
                "Blocks found damaged since the store was opened.",
            ),
            |r| Some(r.damage.found),
        );
        self.each(
            counter(
                "repaired_blocks_total",
                "Damaged blocks written again with a peer's copy.",
            ),
            |r| Some(r.damage.repaired),
        );
        self.each(
            counter(
                "lost_blocks_total",
                "Damaged blocks of which no peer had a good copy.",
            ),
            |r| Some(r.damage.lost),
        );
    }

    fn of_peers(&mut self) {
        self.each_peer(
            ("peer_state", "1 for the peer's state; by the primary."),
            |peer| (Some(word(&peer.state)), 1),
        );
        self.each_peer(
            (
                "peer_session",
                "1 for the phase of the peer's live session; by the primary.",
            ),
            |peer| {
                let phase = peer.session.as_ref().map(|session| word(&session.phase));
                (phase.or(Some("none".to_owned())), 1)
            },
        );
        self.each_peer(
            ("peer_flushed_lsn", "What the peer acknowledged as durable."),
            |peer| (None, peer.flushed.get()),
        );
        self.each_peer(
            ("peer_lag_records", "Records that the peer lacks."),
            |peer| (None, peer.lag_records),
        );
        self.each_peer(("peer_lag_bytes", "Bytes of those records."), |peer| {
            (None, peer.lag_bytes)
        });
    }

    fn each_peer(
        &mut self,
        (name, help): (&'static str, &str),
        value: impl Fn(&PeerReport) -> (Option<String>, u64),
    ) {
        let (server, report) = (self.server, self.report);
        let mut family = self.family(name, "gauge", help);
        for (volume, replica) in &report.volumes {
            for peer in &replica.peers {
                let (state, value) = value(peer);
                let mut labels = vec![
                    ("server", server),
                    ("volume", volume),
                    ("peer", peer.server.as_str()),
                ];
                labels.extend(state.as_deref().map(|state| ("state", state)));
                family.line(&labels, value);
            }
        }
    }
}

/// The word by which status calls it.
fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(_) | Err(_) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests;
