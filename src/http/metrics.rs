//! What Prometheus scrapes: plain HTTP on an address of its own, which is for the inside only; and beside it whether
//! this process is alive, for those that have no other door.

use std::{io, net::TcpListener, pin::Pin, sync::Arc};

use actix_web::{
    App, HttpResponse, HttpServer,
    dev::Server,
    web::{self, Data},
};

use crate::measure::{self, Measurements};

/// Prometheus' text format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Tells [`measure`] how things stand, before each scrape.
pub type Look = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()>>> + Send + Sync>;

/// From here on the process keeps what it measures.
pub fn serve(listener: TcpListener, look: Look) -> io::Result<Server> {
    let measurements = Data::new(measure::start()?);
    let look = Data::new(look);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(look.clone())
            .app_data(measurements.clone())
            .route("/metrics", web::get().to(scrape))
            .route("/livez", web::get().to(HttpResponse::Ok))
            .default_service(web::to(HttpResponse::NotFound))
    });
    Ok(server.disable_signals().workers(1).listen(listener)?.run())
}

async fn scrape(look: Data<Look>, measurements: Data<Measurements>) -> HttpResponse {
    look().await;
    measure::process();
    HttpResponse::Ok().content_type(CONTENT_TYPE).body(measurements.render())
}
