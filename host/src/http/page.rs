//! Pages of lists. A cursor is the key of a page's last row and the list's name, in base64url: opaque to callers,
//! and of use in no other list. A page begins after its cursor's row, so none is lost or shown twice while others are
//! added.

use axum::Json;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use db::Cut;
use domain::Name;
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

use super::schema;
use crate::flow::Error;

/// A part of a list.
#[derive(Serialize, ToSchema)]
pub struct Page<T> {
    /// The rows of this page.
    pub items: Vec<T>,
    /// The `cursor` of the next page; null exactly when there are no more rows.
    pub next: Option<String>,
}

/// The list that a call asks for, and which part of it.
#[derive(Debug)]
pub struct Listing<K> {
    name: String,
    /// Which part.
    pub cut: Cut<K>,
}

impl<K: Serialize + DeserializeOwned> Listing<K> {
    /// The part of the list called `name` after `cursor`. A cursor of another list is refused.
    pub fn new(name: String, cursor: Option<&str>, limit: Option<u32>) -> Result<Self, Error> {
        let limit = match limit.unwrap_or(50) {
            limit @ 1..=500 => limit,
            limit => return Err(Error::invalid("limit", format!("{limit} rows: ask for 1 to 500"))),
        };
        let after = cursor.map(|cursor| {
            let (list, key): (String, K) =
                serde_json::from_slice(&URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
            (list == name).then_some(key)
        });
        let after = match after {
            Some(None) => {
                let message = "it is not of this list: send the `next` of a page of it, or none to begin";
                return Err(Error::invalid("cursor", message));
            }
            after => after.flatten(),
        };
        let cut = Cut { after, limit };
        Ok(Self { name, cut })
    }

    /// The page that `rows` are.
    pub fn page<Row, View: From<Row>>(&self, rows: db::Page<Row, K>) -> Json<Page<View>> {
        Json(Page {
            items: rows.items.into_iter().map(View::from).collect(),
            next: rows.next.map(|key| self.cursor(&key)),
        })
    }

    /// The cursor of what comes after `key` in this list.
    pub fn cursor(&self, key: &K) -> String {
        // A key consists of names, numbers and times, which always have a form in JSON.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&(&self.name, key)).unwrap_or_default())
    }

    /// The page that `rows` are of a thing which always has some: where the list is empty, there is no such `what`.
    pub fn some<Row, View: From<Row>>(
        &self,
        what: &'static str,
        name: &Name,
        rows: db::Page<Row, K>,
    ) -> Result<Json<Page<View>>, Error> {
        match rows.items.is_empty() && self.cut.after.is_none() {
            true => Err(Error::not_found(what, name)),
            false => Ok(self.page(rows)),
        }
    }
}

/// What stands behind the `?` of a list: `cursor`, `limit` and its own filters.
macro_rules! asked {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$about:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$meta])*
        #[derive(serde::Deserialize, utoipa::IntoParams)]
        #[serde(deny_unknown_fields)]
        #[into_params(parameter_in = Query)]
        pub struct $name {
            /// The `next` of the page before.
            cursor: Option<String>,
            /// How many rows at most; 50 unless said.
            #[param(minimum = 1, maximum = 500)]
            limit: Option<u32>,
            $($(#[$about])* pub $field: $kind,)*
        }

        impl $name {
            /// The part of the list called `name`.
            pub fn of<K: serde::Serialize + serde::de::DeserializeOwned>(
                &self,
                name: impl Into<String>,
            ) -> Result<$crate::http::page::Listing<K>, Error> {
                $crate::http::page::Listing::new(name.into(), self.cursor.as_deref(), self.limit)
            }
        }
    };
}
pub(super) use asked;

asked! {
    /// A part of a list.
    pub struct Part {}
}

asked! {
    /// A part of a list of names.
    pub struct Prefixed {
        /// Only names that begin so.
        #[param(value_type = Option<schema::Name>)]
        prefix: Option<Name>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next<K: Serialize + DeserializeOwned>(name: &str, key: K) -> Option<String> {
        let listing = Listing::new(name.to_owned(), None, None).unwrap();
        let rows = db::Page::<u8, K> {
            items: vec![],
            next: Some(key),
        };
        listing.page::<_, u8>(rows).0.next
    }

    #[test]
    fn a_cursor_is_read_by_its_own_list_alone() {
        let cursor = next("components/a", 7_i64);
        let of = |name: &str, cursor: &str| Listing::<i64>::new(name.to_owned(), Some(cursor), None);
        let cursor = cursor.unwrap();
        assert_eq!(of("components/a", &cursor).unwrap().cut.after, Some(7));
        let name = next("components/a", "seven".to_owned()).unwrap();
        for (list, cursor) in [
            ("components/b", cursor.as_str()),
            ("components/a", &name),
            ("components/a", ""),
            ("components/a", "%%%"),
            ("components/a", &cursor[1..]),
        ] {
            let refused = of(list, cursor);
            assert!(
                matches!(&refused, Err(Error::Invalid { field, .. }) if field == "cursor"),
                "{cursor}: {refused:?}"
            );
        }
    }

    #[test]
    fn a_page_has_one_to_five_hundred_rows() {
        let of = |limit| Listing::<i64>::new(String::new(), None, limit);
        assert_eq!(of(None).unwrap().cut.limit, 50);
        assert_eq!(of(Some(500)).unwrap().cut.limit, 500);
        for limit in [0, 501] {
            assert!(matches!(of(Some(limit)), Err(Error::Invalid { field, .. }) if field == "limit"));
        }
    }
}
