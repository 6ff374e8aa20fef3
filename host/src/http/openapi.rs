//! The API's document, made from the routes, and the page that shows it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::{Query, Request};
use axum::http::Method;
use axum::response::IntoResponse;
use bytes::Bytes;
use utoipa::openapi::path::{ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Ref, RefOr, Required};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::{
    archives, audit, carbon, charges, checkpoints, components, corrections, deployments, factors,
    graph_usage, graphs, keys, ledger, meters, nodes, periods, plans, problem, proofs, receipts, refusals,
    statements, tenants, usage, v2, verify, weights,
};
use crate::app::App;
use crate::flow::Error;

/// Where the document is.
const PATH: &str = "/api/openapi.json";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Wattle",
        description = "Hosts models for many tenants and accounts for every joule.\n\n\
            A **tenant** uploads a *component* (a WebAssembly pipeline) and *graphs* (ONNX models), makes a \
            *deployment* of them, and calls it at `/v2/models/{name}/infer`. Every call has a *receipt*: what it \
            used, and what it cost in microjoules.\n\n\
            Send a key with every request: `authorization: Bearer <key>`. An admin makes tenants and keys.\n\n\
            Errors are problems (RFC 9457): `code` is for programs and stays what it is, `detail` is for people and \
            says what to do, `field` names the place in the request. `/v2` has errors in its own form, with the same \
            `code` and `field`.",
    ),
    tags(
        (name = "tenants", description = "Who is served. For admins."),
        (name = "keys", description = "Who may do what. For admins."),
        (name = "components", description = "WebAssembly pipelines. For tenants."),
        (name = "graphs", description = "Models that pipelines load by name. For tenants."),
        (name = "deployments", description = "What can be called, and its releases. For tenants."),
        (name = "models", description = "Calling deployments, by the Open Inference Protocol (V2)."),
        (name = "receipts", description = "What calls used and cost. For tenants."),
        (name = "usage", description = "What was used over time."),
        (name = "ledger", description = "The books. For admins, billing and auditors."),
        (name = "billing", description = "What use costs: price plans, months that close, statements and exports."),
        (name = "audit", description = "Who did what."),
        (name = "about", description = "The API itself."),
    ),
    components(schemas(problem::Body<'_>, problem::V2Body<'_>)),
    security(("key" = [])),
    modifiers(&Shared),
)]
struct Document;

/// What routes refer to by name.
struct Shared;

impl Modify for Shared {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let key = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme("key", key);
        components.responses.extend(refusals::components());
    }
}

/// Every route of the API, with what the document says of it.
pub fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(tenants::router())
        .merge(keys::router())
        .merge(components::router())
        .merge(graphs::router())
        .merge(deployments::router())
        .merge(v2::router())
        .merge(receipts::router())
        .merge(proofs::router())
        .merge(usage::router())
        .merge(graph_usage::router())
        .merge(carbon::router())
        .merge(factors::router())
        .merge(ledger::router())
        .merge(corrections::router())
        .merge(plans::router())
        .merge(nodes::router())
        .merge(periods::router())
        .merge(statements::router())
        .merge(charges::router())
        .merge(checkpoints::router())
        .merge(archives::router())
        .merge(verify::router())
        .merge(meters::router())
        .merge(weights::router())
        .merge(audit::router())
        .routes(routes!(get_document))
}

/// Says of every changing call that it takes an idempotency key: all do, whatever they change.
fn take_idempotency_keys(document: &mut utoipa::openapi::OpenApi) {
    let paths = document.paths.paths.iter_mut();
    for (_, item) in paths.filter(|(path, _)| path.starts_with("/api/")) {
        let calls = [&mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for call in calls.into_iter().flatten() {
            let schema = ObjectBuilder::new()
                .schema_type(Type::String)
                .pattern(Some("^[!-~]{1,255}$"));
            let key = ParameterBuilder::new()
                .name("idempotency-key")
                .parameter_in(ParameterIn::Header)
                .required(Required::False)
                .description(Some(IDEMPOTENCY_KEY))
                .schema(Some(schema));
            call.parameters
                .get_or_insert_default()
                .push(RefOr::T(key.build()));
            let conflict = Ref::from_response_name("Conflict");
            call.responses
                .responses
                .entry("409".into())
                .or_insert(RefOr::Ref(conflict));
        }
    }
}

const IDEMPOTENCY_KEY: &str = "A name for this request, such as a UUID. The same request under the same key is \
    not done again: it is answered as the first one was, for ever, with the header `idempotency-replayed`. A key of \
    another request is refused (`idempotency_key_reused`), and one whose request still runs \
    (`idempotency_key_in_use`). Answers 401, 403, 408, 429 and 5xx are not kept: the same again is tried again.";

/// The document as it is served.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let mut document = routes().into_openapi();
    take_idempotency_keys(&mut document);
    let document = serde_json::to_vec(&document);
    // It consists of maps and strings, which always have a form in JSON.
    document.unwrap_or_default().into()
});

/// The query parameters of each route, by its path and method.
static QUERIES: LazyLock<HashMap<(String, Method), Vec<String>>> = LazyLock::new(|| {
    let mut queries = HashMap::new();
    for (path, item) in routes().into_openapi().paths.paths {
        let operations = [
            (Method::GET, &item.get),
            (Method::PUT, &item.put),
            (Method::POST, &item.post),
            (Method::PATCH, &item.patch),
            (Method::DELETE, &item.delete),
        ];
        for (method, operation) in operations {
            let parameters = operation
                .iter()
                .flat_map(|operation| operation.parameters.iter().flatten());
            let names = parameters.filter_map(|parameter| match parameter {
                RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Query => {
                    Some(parameter.name.clone())
                }
                _ => None,
            });
            let names = names.collect();
            queries.insert((path.clone(), method), names);
        }
    }
    queries
});

/// Refuses query parameters that the document does not know, or that stand twice: one that is misspelt would
/// else do nothing, and nobody would notice.
pub fn check_query(path: &str, request: &Request) -> Result<(), Error> {
    if request.uri().query().is_none_or(str::is_empty) {
        return Ok(());
    }
    let method = match *request.method() {
        Method::HEAD => Method::GET,
        ref method => method.clone(),
    };
    // A method that the route does not take has a better answer further on.
    let Some(known) = QUERIES.get(&(path.to_owned(), method)) else {
        return Ok(());
    };
    let given = Query::<Vec<(String, String)>>::try_from_uri(request.uri());
    let Query(given) = given.map_err(|error| Error::invalid("query", error.body_text()))?;
    for (index, (name, _)) in given.iter().enumerate() {
        if !known.contains(name) {
            let message = match &known[..] {
                [] => "this route takes no query".to_owned(),
                known => format!("this route takes only {} in its query", known.join(", ")),
            };
            return Err(Error::invalid(name, message));
        }
        if given[..index].iter().any(|(earlier, _)| earlier == name) {
            return Err(Error::invalid(name, "it stands twice in the query"));
        }
    }
    Ok(())
}

/// Get this document
#[utoipa::path(
    get, path = "/api/openapi.json", tag = "about", security(()),
    responses((status = 200, body = Object, description = "The API as OpenAPI 3.1 describes it."))
)]
async fn get_document() -> impl IntoResponse {
    ([("content-type", "application/json")], DOCUMENT.clone())
}

/// `/docs`: the document for people.
pub fn pages<S: Clone + Send + Sync + 'static>() -> Router<S> {
    // Unless it is told not to, the page asks a service on the Internet whether the document is valid.
    let config = Config::from(PATH)
        .validator_url("none")
        .persist_authorization(true);
    SwaggerUi::new("/docs").config(config).into()
}
