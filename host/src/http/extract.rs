//! Paths and queries whose errors are problems that name what is wrong.

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path as AxumPath, Query as AxumQuery};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::flow::Error;

/// The parts of a path that a route leaves open.
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let path = AxumPath::from_request_parts(parts, state).await;
        path.map(|AxumPath(path)| Self(path))
            .map_err(|rejection| Error::invalid("path", rejection.body_text()))
    }
}

/// What stands behind a `?`.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let query = AxumQuery::try_from_uri(&parts.uri);
        query.map(|AxumQuery(query)| Self(query)).map_err(misread)
    }
}

fn misread(rejection: QueryRejection) -> Error {
    type Misread = serde_path_to_error::Error<serde::de::value::Error>;
    let error: &(dyn std::error::Error + 'static) = &rejection;
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    match causes.find_map(|cause| cause.downcast_ref::<Misread>()) {
        Some(error) => Error::invalid(error.path().to_string(), error.inner()),
        None => Error::invalid("query", rejection.body_text()),
    }
}
