//! What Prometheus scrapes: plain HTTP on an address of its own, which is for the inside only and has nothing else on it.

use std::{io, net::TcpListener};

use actix_web::{
    App, HttpResponse, HttpServer,
    dev::Server,
    web::{self, Data},
};

use crate::{
    flows::{Flows, health},
    measure::{self, Measurements},
};

/// Prometheus' text format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// From here on the process keeps what it measures.
pub fn serve(listener: TcpListener, flows: Data<Flows>) -> io::Result<Server> {
    let measurements = Data::new(measure::start()?);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(flows.clone())
            .app_data(measurements.clone())
            .route("/metrics", web::get().to(scrape))
            .default_service(web::to(HttpResponse::NotFound))
    });
    Ok(server.disable_signals().workers(1).listen(listener)?.run())
}

async fn scrape(flows: Data<Flows>, measurements: Data<Measurements>) -> HttpResponse {
    health::measure(&flows).await;
    HttpResponse::Ok().content_type(CONTENT_TYPE).body(measurements.render())
}
