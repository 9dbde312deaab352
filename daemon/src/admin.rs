//! The admin endpoint: metrics, health, status. Plain HTTP; loopback by default.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tracing::error;

use crate::scrape::Observed;

#[derive(Clone)]
struct Admin {
    registry: Arc<Registry>,
    observed: Observed,
}

/// Serves until the task is dropped.
pub(crate) async fn serve(listener: TcpListener, registry: Registry, observed: Observed) {
    let admin = Admin { registry: Arc::new(registry), observed };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .with_state(admin);
    if let Err(error) = axum::serve(listener, router).await {
        error!(%error, "the admin endpoint ended");
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let mut text = String::new();
    // Writing to a string does not fail.
    if encode(&mut text, &admin.registry).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

/// The process runs and its driver answers.
async fn healthz(State(admin): State<Admin>) -> Response {
    match admin.observed.swarm.snapshot().await {
        Some(_) => "ok\n".into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the swarm driver has stopped\n").into_response(),
    }
}

/// The node can do its part: it has a tracker. Without a scheduler it is its own after a while.
async fn readyz(State(admin): State<Admin>) -> Response {
    match admin.observed.tracker.is_up() {
        true => "ready\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "no tracker yet\n").into_response(),
    }
}

async fn status(State(admin): State<Admin>) -> Response {
    match tokio::task::spawn_blocking(move || admin.observed.status()).await {
        Ok(status) => Json(status).into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}
