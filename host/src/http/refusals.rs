//! What calls may be refused with, as the API's document says it: a response by name for each status.

use std::collections::BTreeMap;

use utoipa::IntoResponses;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{Content, Ref, RefOr, Response, ResponseBuilder};

/// Status, name and meaning of every refusal.
const REFUSALS: [(u16, &str, &str); 14] = [
    (
        401,
        "Unauthorised",
        "No valid key came: send one as `authorization: Bearer <key>`.",
    ),
    (
        403,
        "Forbidden",
        "The key's role may not do this, or its tenant is suspended or closed.",
    ),
    (
        404,
        "NotFound",
        "There is no such thing, or it is another tenant's.",
    ),
    (
        408,
        "TooSlow",
        "The body came too slowly, or the caller went away.",
    ),
    (
        409,
        "Conflict",
        "It is there already, it has ended for good, it is not so yet, or a request under this idempotency key runs.",
    ),
    (413, "TooLarge", "The body is over its cap."),
    (
        415,
        "MediaType",
        "The body is of another kind than the route takes.",
    ),
    (
        422,
        "Invalid",
        "Something in the request does not fit, or what it asked for failed; `field` names the place.",
    ),
    (
        429,
        "TooMany",
        "Too many calls of the tenant wait already, or it has uploaded what it may in an hour.",
    ),
    (500, "Internal", "The host failed; its log has the cause."),
    (
        503,
        "Unavailable",
        "The host cannot do this now; try again where `retry-after` says when.",
    ),
    (504, "Timeout", "The call's deadline passed."),
    (507, "StorageFull", "The tenant has no room for an upload."),
    (
        405,
        "Method",
        "The route does not take this method; `allow` says which it takes.",
    ),
];

/// The two forms of an error.
#[derive(Clone, Copy)]
enum Form {
    Problem,
    V2,
}

impl Form {
    fn prefix(self) -> &'static str {
        match self {
            Self::Problem => "",
            Self::V2 => "V2",
        }
    }

    fn body(self) -> (&'static str, &'static str) {
        match self {
            Self::Problem => ("application/problem+json", "Problem"),
            Self::V2 => ("application/json", "V2Error"),
        }
    }
}

/// Every refusal in both forms, by name: the shared responses of the document.
pub fn components() -> impl Iterator<Item = (String, RefOr<Response>)> {
    [Form::Problem, Form::V2].into_iter().flat_map(|form| {
        REFUSALS.into_iter().map(move |(status, name, about)| {
            let name = format!("{}{name}", form.prefix());
            (name, RefOr::T(response(form, status, about)))
        })
    })
}

fn response(form: Form, status: u16, about: &str) -> Response {
    let (kind, schema) = form.body();
    let content = Content::new(Some(Ref::from_schema_name(schema)));
    let response = ResponseBuilder::new().description(about).content(kind, content);
    let header = |kind, about| {
        let schema = ObjectBuilder::new().schema_type(kind).build();
        HeaderBuilder::new()
            .schema(Some(schema))
            .description(Some(about))
            .build()
    };
    let response = match status {
        401 => response.header("www-authenticate", header(Type::String, "`Bearer`.")),
        429 | 503 => response.header("retry-after", header(Type::Integer, "Seconds.")),
        _ => response,
    };
    response.build()
}

fn refused(form: Form, statuses: &[u16]) -> BTreeMap<String, RefOr<Response>> {
    let listed = REFUSALS.iter().filter(|(status, ..)| statuses.contains(status));
    listed
        .map(|(status, name, _)| {
            let named = Ref::from_response_name(format!("{}{name}", form.prefix()));
            (status.to_string(), RefOr::Ref(named))
        })
        .collect()
}

/// Refusals that routes have in common.
macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident: $form:ident $statuses:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                refused(Form::$form, &$statuses)
            }
        }
    )*};
}

refusals! {
    /// Of every call that needs a key.
    Keyed: Problem [401, 403, 422, 500, 503];
    /// Of a path with a name or id in it.
    Named: Problem [404];
    /// Of a new name that may be taken.
    Taken: Problem [409];
    /// Of what is not so yet.
    Early: Problem [409];
    /// Of what has ended for good.
    Ended: Problem [409];
    /// Of a JSON body.
    Bodied: Problem [408, 413, 415];
    /// Of an upload: what it may cost the host to look at is bounded, and so is what a tenant stores.
    Uploading: Problem [408, 413, 429, 507];
    /// Of what runs a pipeline: its turn may not come, and it has a deadline.
    Running: Problem [429, 504];
    /// Of every call of a model.
    V2Keyed: V2 [401, 403, 404, 422, 500, 503];
    /// Of running one.
    V2Running: V2 [408, 413, 429, 504];
}
