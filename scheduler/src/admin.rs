//! The scheduler's admin endpoint: metrics, health, status. Plain HTTP; loopback by default.

use std::fmt::Write;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use shoal_swarm::tracker::{TrackedSwarm, TrackerSnapshot};
use tokio::net::TcpListener;
use tracing::error;

use crate::task::TrackerHandle;

/// Serves until the task is dropped.
pub(crate) async fn serve(listener: TcpListener, tracker: TrackerHandle) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(healthz))
        .route("/status", get(status))
        .with_state(tracker);
    if let Err(error) = axum::serve(listener, router).await {
        error!(%error, "the admin endpoint ended");
    }
}

async fn snapshot(tracker: &TrackerHandle) -> Result<TrackerSnapshot, Response> {
    let stopped = |_| (StatusCode::SERVICE_UNAVAILABLE, "the tracker has stopped\n").into_response();
    tracker.snapshot().await.map_err(stopped)
}

async fn healthz(State(tracker): State<TrackerHandle>) -> Response {
    snapshot(&tracker).await.map_or_else(|response| response, |_| "ok\n".into_response())
}

/// Name, whether it only grows, meaning, value. The only place where the scheduler's metrics are defined.
type Row = (&'static str, bool, &'static str, fn(&TrackerSnapshot) -> u64);

const METRICS: [Row; 7] = [
    ("shoal_scheduler_nodes", false, "Nodes with a session", |s| s.nodes as u64),
    ("shoal_scheduler_swarms", false, "Blobs that nodes hold or fetch", |s| s.swarms.len() as u64),
    ("shoal_scheduler_origin_leases", false, "Leases to read from an origin", |s| s.origin_leases as u64),
    ("shoal_scheduler_zone_leases", false, "Leases to read from another zone", |s| s.zone_leases as u64),
    ("shoal_scheduler_leases_expired", true, "Leases that ended without progress", |s| s.leases_expired),
    ("shoal_scheduler_shunned_nodes", false, "Nodes whose claims proved false", |s| s.shunned.len() as u64),
    ("shoal_scheduler_open", false, "1 when origin leases are given, 0 while nodes report", |s| {
        u64::from(s.open)
    }),
];

fn text(snapshot: &TrackerSnapshot) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    for (name, grows, help, value) in METRICS {
        let (kind, suffix) = if grows { ("counter", "_total") } else { ("gauge", "") };
        writeln!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}\n{name}{suffix} {}", value(snapshot))?;
    }
    let name = "shoal_scheduler_origin_read_bytes";
    writeln!(out, "# HELP {name} Bytes that lease holders read, by origin.\n# TYPE {name} counter")?;
    for (origin, bytes) in &snapshot.origin_bytes {
        // A registry's name holds no quote, backslash or line end.
        writeln!(out, "{name}_total{{registry=\"{origin}\"}} {bytes}")?;
    }
    out.push_str("# EOF\n");
    Ok(out)
}

async fn metrics(State(tracker): State<TrackerHandle>) -> Response {
    let snapshot = match snapshot(&tracker).await {
        Ok(snapshot) => snapshot,
        Err(response) => return response,
    };
    match text(&snapshot) {
        Ok(text) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn status(State(tracker): State<TrackerHandle>) -> Response {
    let snapshot = match snapshot(&tracker).await {
        Ok(snapshot) => snapshot,
        Err(response) => return response,
    };
    let swarm = |swarm: &TrackedSwarm| {
        json!({
            "digest": swarm.swarm.digest.to_string(),
            "size": swarm.swarm.size,
            "origin": swarm.swarm.origin.to_string(),
            "round": swarm.swarm.round,
            "members": swarm.members,
            "complete": swarm.complete,
            "present_chunks": swarm.present,
            "total_chunks": swarm.total,
            "attested": swarm.attested,
        })
    };
    Json(json!({
        "nodes": snapshot.nodes,
        "open": snapshot.open,
        "origin_leases": snapshot.origin_leases,
        "zone_leases": snapshot.zone_leases,
        "shunned": snapshot.shunned.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "swarms": snapshot.swarms.iter().map(swarm).collect::<Vec<_>>(),
    }))
    .into_response()
}
