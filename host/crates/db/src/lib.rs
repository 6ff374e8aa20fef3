//! Every SQL statement of Wattle, a file per noun, and the migrator.
//!
//! Statements run in a transaction that has taken one of four roles: [`TenantTx`], [`WriterTx`],
//! [`BillingTx`] or [`AdminTx`]. What a role may see and do is decided by grants and row-level
//! security; the queries of a tenant filter by tenant as well.

mod allocation;
mod archive;
mod audit;
mod carbon;
mod chain;
mod check;
mod checkpoint;
mod component;
mod convert;
mod correction;
mod deployment;
mod error;
mod factor;
mod graph;
mod graph_usage;
mod idempotency;
mod key;
mod ledger;
mod lines;
mod metered;
mod node;
mod open;
mod page;
mod partition;
mod period;
mod plan;
mod posted;
mod posting;
mod receipt;
mod site;
mod statement;
mod storage;
mod tenant;
mod tx;
mod usage;
mod valuation;
mod verify;

pub use allocation::Allocated;
pub use archive::{ArchiveRow, Candidate, Leaf, NewArchive};
pub use audit::{Action, Actor, AuditCursor, AuditEvent, AuditFilter};
pub use carbon::{Use, UseFilter};
pub use chain::Head;
pub use check::{ChainBreak, Gap, Mismatch, TenantSums};
pub use checkpoint::{CheckpointRow, SignerRow};
pub use component::{Component, Revision};
pub use correction::CorrectionRow;
pub use deployment::{Deployment, GraphRef, Release, ReleaseSpec};
pub use error::DbError;
pub use factor::{FactorFilter, FactorRow};
pub use graph::{Graph, GraphVersion};
pub use graph_usage::{GraphUsage, GraphUsageCursor, GraphUsageFilter, GraphUsageGroups};
pub use idempotency::{Claim, Claimed, Kept, Scope};
pub use key::{Key, KeyCursor, KeyEvent, KeyEvents, KeyFilter, KeyRow, NewKey};
pub use ledger::{Balance, Totals, Window};
pub use metered::{GraphUse, TenantLife};
pub use node::Node;
pub use open::{Db, MIGRATOR, Options};
pub use page::{Cut, Page};
pub use period::{NodeState, PeriodCut};
pub use plan::PlanRow;
pub use posted::Found;
pub use posting::{PostingInsert, PostingKey};
pub use receipt::{Receipt, ReceiptFilter, ReceiptLineRow};
pub use statement::{Charge, ChargeFilter, StatementRow, Told};
pub use storage::{Storage, Stored, StoredKind};
pub use tenant::{Tenant, TenantChange, TenantFilter, TenantStatus};
pub use tx::{AdminTx, BillingTx, TenantTx, WriterTx};
pub use usage::{Span, Usage, UsageCursor, UsageFilter, UsageGroups};
pub use valuation::{Valuation, ValuationCursor, ValuationFilter};
pub use verify::{LedgerSpan, PostingPlace, Stray};
