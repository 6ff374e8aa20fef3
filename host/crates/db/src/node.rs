//! Nodes: installations of the host.

use domain::NodeId;
use time::OffsetDateTime;

use crate::{AdminTx, DbError};

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// When it first came.
    pub created_at: OffsetDateTime,
}

impl AdminTx {
    /// The id of the node called `name`; `fresh` becomes it if the name is new. A node that has kept its
    /// id across a restored database keeps it still: an `id` that is there under another name is a
    /// conflict (`node_pkey`).
    pub async fn node_ensure(&mut self, fresh: NodeId, name: &str) -> Result<NodeId, DbError> {
        sqlx::query!(
            "insert into node (id, name) values ($1, $2) on conflict (name) do nothing",
            fresh.0,
            name
        )
        .execute(&mut *self.tx)
        .await?;
        let id = sqlx::query_scalar!("select id from node where name = $1", name)
            .fetch_one(&mut *self.tx)
            .await?;
        Ok(NodeId(id))
    }

    /// Every node, by name.
    pub async fn nodes_list(&mut self) -> Result<Vec<Node>, DbError> {
        let rows = sqlx::query!("select id, name, created_at from node order by name")
            .fetch_all(&mut *self.tx)
            .await?;
        let node = |id, name, created_at| Node {
            id: NodeId(id),
            name,
            created_at,
        };
        Ok(rows
            .into_iter()
            .map(|row| node(row.id, row.name, row.created_at))
            .collect())
    }
}
