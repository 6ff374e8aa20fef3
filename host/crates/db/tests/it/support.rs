//! A migrated database, its roles, and postings to put into it.

use db::{
    Action, Actor, AdminTx, Cut, Db, DbError, NewArchive, NewKey, Options, PeriodCut, PostingInsert,
    ReleaseSpec, Scope, StatementRow, Tenant, TenantFilter, Valuation,
};
use domain::account::Account;
use domain::billing::statement::{Class, Line};
use domain::billing::{Currency, Item, Month, Prices, Rate};
use domain::carbon::{Fact, Factor, Figure, Hardware, Method, Range, Signal, Site, Valued};
use domain::checkpoint::Record;
use domain::correction::Correction;
use domain::energy::{FaultKind, Provenance, Root};
use domain::posting::{
    Call, CallKind, Posting, PostingKind, PostingRoot, ReceiptLine, Transfer, TransferKind, Unit,
};
use domain::signature::Signer;
use domain::window::{OpenReceipts, Sealer};
use domain::{
    DType, Digest, Epoch, InvocationId, KeyId, Limits, Name, NodeId, Outcome, Role, Signature, SigningKey,
    TenantId, TensorSpec, Usage, Work,
};
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// The roles of the run time.
pub const ROLES: [&str; 4] = ["wattle_tenant", "wattle_writer", "wattle_billing", "wattle_admin"];

pub const A: TenantId = TenantId(Uuid::from_u128(0xa));
pub const B: TenantId = TenantId(Uuid::from_u128(0xb));
pub const NODE: NodeId = NodeId(Uuid::from_u128(0x40de));
pub const BOOT: Uuid = Uuid::from_u128(0xb007);

/// A key that manages a tenant.
pub const MANAGER: Actor = Actor::Key {
    id: KeyId(Uuid::from_u128(0x3e)),
    role: Role::TenantManage,
};

pub struct Fixture {
    pub db: Db,
    pub owner: PgPool,
    options: PgConnectOptions,
}

impl Fixture {
    /// Opens the database as a host does, and adds two tenants.
    pub async fn new(options: PgConnectOptions) -> Self {
        Self::with(options, &Options::default()).await
    }

    pub async fn with(options: PgConnectOptions, pool: &Options) -> Self {
        let owner = PgPoolOptions::new()
            .max_connections(2)
            .connect_with(options.clone())
            .await
            .unwrap();
        let owner_url = options.to_url_lossy();
        let run_url = options.clone().username("wattle_host").to_url_lossy();
        let db = Db::open(owner_url.as_str(), run_url.as_str(), pool)
            .await
            .unwrap();
        let mut tx = db.admin_tx().await.unwrap();
        tx.tenant_insert(A, &name("tenant-a")).await.unwrap();
        tx.tenant_insert(B, &name("tenant-b")).await.unwrap();
        tx.commit().await.unwrap();
        Self { db, owner, options }
    }

    pub fn run_url(&self) -> String {
        self.options.clone().username("wattle_host").to_url_lossy().into()
    }

    /// A connection of the host's login, beside the pool.
    pub async fn login(&self) -> PgConnection {
        self.options
            .clone()
            .username("wattle_host")
            .connect()
            .await
            .unwrap()
    }

    /// The time of the database, in whole microseconds.
    pub async fn now(&self) -> OffsetDateTime {
        sqlx::query_scalar("select now()")
            .fetch_one(&self.owner)
            .await
            .unwrap()
    }

    /// Everything that a tenant can own, for `tenant`.
    pub async fn furnish(&self, tenant: TenantId) {
        let mut tx = self.db.tenant_tx(tenant).await.unwrap();
        let (component, graph) = (Digest::of(b"component"), Digest::of(b"graph"));
        tx.component_revision_insert(&name("c"), component, 10)
            .await
            .unwrap();
        tx.graph_version_insert(&name("g"), graph, 20, "onnx", &signature())
            .await
            .unwrap();
        tx.deployment_create(&name("d"), &spec(Some(component), Some(graph)))
            .await
            .unwrap();
        tx.audit(MANAGER, Action::DeploymentCreate, "d", json!({ "release": 1 }))
            .await
            .unwrap();
        tx.upload_count(OffsetDateTime::UNIX_EPOCH, 1).await.unwrap();
        let key = tenant.0.as_bytes()[15];
        tx.key_insert(&NewKey {
            id: KeyId(Uuid::from_u128(0x5e00 | u128::from(key))),
            tenant: Some(tenant),
            role: Role::TenantManage,
            name: "own".into(),
            hash: [key; 32],
            expires_at: None,
        })
        .await
        .unwrap();
        tx.commit().await.unwrap();
        let scope = Scope {
            tenant: Some(tenant),
            role: Role::TenantManage,
        };
        let by = (NODE, Uuid::from_u128(1));
        self.db
            .idempotency_claim(scope, "furnish", by, OffsetDateTime::UNIX_EPOCH)
            .await
            .unwrap();
        self.value(&valuation(
            OffsetDateTime::UNIX_EPOCH,
            OffsetDateTime::UNIX_EPOCH,
            tenant,
            1,
        ))
        .await;
        self.learn(&[factor(
            OffsetDateTime::UNIX_EPOCH + Duration::days(20_000),
            400_000,
        )])
        .await;
        self.stand(&site(OffsetDateTime::UNIX_EPOCH)).await;
    }

    /// A correction of A's and B's use in `posting`, sealed by nobody yet, and a plan of prices of each. For every
    /// tenant a statement of a month that is closed.
    pub async fn bill(&self, posting: &Posting) {
        let month: Month = "1999-12".parse().unwrap();
        self.cut(month).await;
        let mut tx = self.db.admin_tx().await.unwrap();
        for tenant in [A, B] {
            tx.plan_insert(
                Some(tenant),
                self.now().await,
                "EUR".parse().unwrap(),
                &Prices::default(),
            )
            .await
            .unwrap();
            tx.correction_insert(NODE, &correction(tenant, -1, posting.hash))
                .await
                .unwrap();
            let line = charge(month);
            tx.statement_insert(&statement(month, tenant), &[line])
                .await
                .unwrap();
        }
        tx.node_ensure(NODE, "node").await.unwrap();
        tx.node_lose(NODE, "its disk broke").await.unwrap();
        tx.period_close(month, 2).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Cuts the ledger for a month.
    pub async fn cut(&self, month: Month) -> PeriodCut {
        let as_of = self.now().await;
        let mut tx = self.db.admin_tx().await.unwrap();
        tx.period_cut(month, as_of).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = self.db.billing_tx().await.unwrap();
        tx.period(month).await.unwrap().unwrap()
    }

    /// Keeps a valuation.
    pub async fn value(&self, valuation: &Valuation) {
        let mut tx = self.db.writer_tx().await.unwrap();
        tx.valuation_insert(valuation).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Adds what is new of factors, and says how many that are.
    pub async fn learn(&self, factors: &[Factor]) -> u64 {
        let mut tx = self.db.writer_tx().await.unwrap();
        let added = tx.factors_add(factors).await.unwrap();
        tx.commit().await.unwrap();
        added
    }

    /// Says where the node stands, and whether that was new.
    pub async fn stand(&self, site: &Site) -> bool {
        let mut tx = self.db.writer_tx().await.unwrap();
        let added = tx.site_add(NODE, site).await.unwrap();
        tx.commit().await.unwrap();
        added
    }

    /// Lists the key of seed `n`, if it is not listed yet.
    pub async fn sign(&self, n: u8) -> SigningKey {
        let key = SigningKey::from_seed(&[n; 32]).unwrap();
        let mut tx = self.db.admin_tx().await.unwrap();
        let listed = tx.signers().await.unwrap();
        if listed.iter().all(|row| row.signer.key != key.public()) {
            let signer = Signer {
                key: key.public(),
                since: OffsetDateTime::UNIX_EPOCH,
                succession: None,
            };
            tx.signer_insert(NODE, &signer).await.unwrap();
            tx.commit().await.unwrap();
        }
        key
    }

    /// Makes a checkpoint of all that none covers, with the key of seed `n`.
    pub async fn checkpoint(&self, n: u8) -> Record {
        let (key, at) = (self.sign(n).await, self.now().await);
        let mut tx = self.db.writer_tx().await.unwrap();
        tx.checkpoints_lock().await.unwrap();
        let last = tx.checkpoint_last().await.unwrap();
        let number = last.as_ref().map(|last| last.signed.checkpoint.number);
        let postings = tx.postings_uncovered(number, 100).await.unwrap();
        let record = Record::make(last.as_ref(), &postings, at, &key);
        tx.checkpoint_insert(&record).await.unwrap();
        tx.commit().await.unwrap();
        record
    }

    /// Posts and commits.
    pub async fn post(&self, posting: &Posting) -> PostingInsert {
        let mut tx = self.db.writer_tx().await.unwrap();
        let result = tx.posting_insert(posting).await.unwrap();
        tx.commit().await.unwrap();
        result
    }

    /// What is kept of an archive with the lines of postings.
    pub async fn new_archive(&self, postings: &[&Posting]) -> NewArchive {
        let mut sums = Vec::new();
        for posting in postings {
            let id = sqlx::query_scalar("select id from posting where hash = $1").bind(&posting.hash.0[..]);
            let id: i64 = id.fetch_one(&self.owner).await.unwrap();
            sums.push((id, domain::archive::sums(&posting.lines)));
        }
        let calls = || postings.iter().flat_map(|posting| &posting.lines);
        let calls = || calls().map(|line| line.call.invocation);
        NewArchive {
            digest: Digest::of(
                &postings
                    .iter()
                    .flat_map(|posting| posting.hash.0)
                    .collect::<Vec<_>>(),
            ),
            bytes: 100,
            span: (postings[0].to, postings[postings.len() - 1].to),
            calls: (calls().min().unwrap(), calls().max().unwrap()),
            postings: sums,
        }
    }

    /// Archives the lines of postings, which stay where they are; the archive's number.
    pub async fn archive(&self, postings: &[&Posting]) -> i64 {
        let new = self.new_archive(postings).await;
        let mut tx = self.db.writer_tx().await.unwrap();
        let id = tx.archive_insert(&new).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    /// Lets go of every connection, so that the database can be dropped.
    pub async fn finish(self) {
        self.db.close().await;
        self.owner.close().await;
    }
}

/// All tenants.
pub async fn tenants(tx: &mut AdminTx) -> Result<Vec<Tenant>, DbError> {
    let page = tx
        .tenants_list(&TenantFilter::default(), &Cut::first(500))
        .await?;
    Ok(page.items)
}

/// Runs `statement` as `role` and `tenant`; the SQLSTATE if it fails. Nothing is kept.
pub async fn attempt(
    login: &mut PgConnection,
    role: &str,
    tenant: Option<TenantId>,
    statement: &str,
) -> Result<u64, String> {
    let mut tx = login.begin().await.unwrap();
    take_role(&mut tx, role, tenant).await;
    let result = sqlx::query(AssertSqlSafe(statement)).execute(&mut *tx).await;
    tx.rollback().await.unwrap();
    result
        .map(|done| done.rows_affected())
        .map_err(|error| sqlstate(&error))
}

/// The number that `query` gives to `role` and `tenant`.
pub async fn count(
    login: &mut PgConnection,
    role: &str,
    tenant: Option<TenantId>,
    query: &str,
) -> Result<i64, String> {
    let mut tx = login.begin().await.unwrap();
    take_role(&mut tx, role, tenant).await;
    let result = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut *tx).await;
    tx.commit().await.unwrap();
    result.map_err(|error| sqlstate(&error))
}

async fn take_role(tx: &mut PgConnection, role: &str, tenant: Option<TenantId>) {
    sqlx::query(AssertSqlSafe(format!("set local role {role}")))
        .execute(&mut *tx)
        .await
        .unwrap();
    if let Some(tenant) = tenant {
        sqlx::query("select set_config('wattle.tenant', $1, true)")
            .bind(tenant.to_string())
            .execute(tx)
            .await
            .unwrap();
    }
}

pub fn sqlstate(error: &sqlx::Error) -> String {
    let database = error
        .as_database_error()
        .unwrap_or_else(|| panic!("not of the database: {error}"));
    database.code().unwrap().into_owned()
}

/// Partitions of `parent`, the default one included.
pub async fn leaves(owner: &PgPool, parent: &str) -> Vec<String> {
    let leaves = sqlx::query_scalar(
        "select inhrelid::regclass::text from pg_inherits where inhparent = $1::regclass order by 1",
    );
    leaves.bind(parent).fetch_all(owner).await.unwrap()
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn signature() -> Signature {
    let spec = |name: &str| TensorSpec::new(name, DType::Fp32, [None, Some(4)]);
    Signature {
        inputs: vec![spec("in")],
        outputs: vec![spec("out")],
        parameters: Vec::new(),
    }
}

pub fn spec(component: Option<Digest>, graph: Option<Digest>) -> ReleaseSpec {
    let graph = graph.map(|version| {
        (
            "default".into(),
            db::GraphRef {
                name: name("g"),
                version,
                placement: Some(domain::Placement {
                    backend: "rten 0.27.0".into(),
                    check: domain::GoldenCheck::Agrees,
                }),
            },
        )
    });
    ReleaseSpec {
        component: component.map(|digest| (name("c"), digest)),
        graphs: graph.into_iter().collect(),
        settings: [("mode".into(), "fast".into())].into(),
        limits: Limits {
            fuel: 7,
            ..Limits::default()
        },
        backend: domain::BackendChoice::OnnxRuntime,
        signature: signature(),
    }
}

fn transfer(ordinal: u32, credit: Account, debit: Account, kind: TransferKind, amount: u64) -> Transfer {
    let unit = if matches!(credit, Account::Fuel(_)) {
        Unit::Fuel
    } else {
        Unit::Uj
    };
    let root = match &credit {
        Account::Meter(root) => Some(root.clone()),
        _ => None,
    };
    let tenant = match (&debit, kind) {
        (Account::Tenant(tenant), TransferKind::Dynamic) => Some(*tenant),
        _ => None,
    };
    let deployment = tenant.map(|_| name("d"));
    let release = tenant.map(|_| 1);
    Transfer {
        ordinal,
        credit,
        debit,
        root,
        unit,
        kind,
        tenant,
        deployment,
        release,
        amount,
        cites: None,
    }
}

/// A posting of `kind` without anything under it.
pub fn empty(kind: PostingKind, seq: u64, prev_hash: Digest, to: OffsetDateTime) -> Posting {
    let posting = Posting {
        node: NODE,
        epoch: Epoch(Uuid::from_u128(0xe)),
        seq,
        kind,
        from: to - Duration::SECOND,
        to,
        fuel_schedule: 1,
        roots: vec![],
        transfers: vec![],
        lines: vec![],
        input_digest: Digest::of(b"inputs"),
        merkle_root: Digest::ZERO,
        prev_hash,
        hash: Digest::ZERO,
    };
    sealed(posting)
}

/// A window in which A used 30 µJ and 100 fuel and B 20 µJ and 40 fuel, with 40 µJ of idle and 10 µJ
/// that nobody can place.
pub fn window(seq: u64, prev_hash: Digest, to: OffsetDateTime) -> Posting {
    let meter = || Account::Meter("modelled".into());
    let mut posting = empty(PostingKind::Window, seq, prev_hash, to);
    posting.roots = vec![PostingRoot {
        root: Root {
            name: "modelled".into(),
            kind: "modelled".into(),
            provenance: Provenance::Modelled,
            uncertainty_ppm: 300_000,
            model_version: 1,
        },
        boot_id: BOOT,
        start_uj: 1_000 + seq * 100,
        end_uj: 1_100 + seq * 100,
        faults: vec![FaultKind::Silent, FaultKind::Gap],
    }];
    posting.transfers = vec![
        transfer(0, meter(), Account::Tenant(A), TransferKind::Dynamic, 30),
        transfer(1, meter(), Account::Tenant(B), TransferKind::Dynamic, 20),
        transfer(2, meter(), Account::Idle, TransferKind::Idle, 40),
        transfer(3, meter(), Account::Unattributed, TransferKind::Unattributed, 10),
        transfer(
            4,
            Account::Fuel(NODE),
            Account::Tenant(A),
            TransferKind::Dynamic,
            100,
        ),
        transfer(
            5,
            Account::Fuel(NODE),
            Account::Tenant(B),
            TransferKind::Dynamic,
            40,
        ),
    ];
    posting.lines = vec![line(seq, A, 100, 30, to), line(seq, B, 40, 20, to)];
    sealed(posting)
}

/// Idle energy moved to A.
pub fn allocation(seq: u64, prev_hash: Digest, to: OffsetDateTime) -> Posting {
    let mut posting = empty(PostingKind::Allocation, seq, prev_hash, to);
    let debit = Account::Tenant(A);
    posting.transfers = vec![transfer(0, Account::Idle, debit, TransferKind::Allocation, 15)];
    sealed(posting)
}

/// The only line of the call that `tenant` made in window `seq`.
fn line(seq: u64, tenant: TenantId, fuel: u64, energy_uj: u64, to: OffsetDateTime) -> ReceiptLine {
    ReceiptLine {
        call: Call {
            invocation: invocation(seq, tenant),
            kind: CallKind::Infer,
            tenant,
            deployment: Some(name("d")),
            release: Some(1),
            started_at: to - Duration::MILLISECOND,
        },
        ordinal: 0,
        outcome: Some(Outcome::Ok),
        usage: Usage {
            fuel,
            cpu_ns: 5,
            bytes_in: 6,
            bytes_out: 7,
            peak_memory_bytes: 8,
            work: vec![Work {
                graph: Digest::of(b"graph"),
                backend: "rten".into(),
                device: "cpu".into(),
                precision: "exact".into(),
                runs: 1,
                rows: 2,
                cpu_ns: u64::MAX >> 1,
                busy_ns: 3,
                tokens: 7,
            }],
        },
        energy_uj: Some(energy_uj),
    }
}

/// An hour's average intensity of `DE`.
pub fn factor(from: OffsetDateTime, mg_per_kwh: u64) -> Factor {
    let fact = Fact {
        zone: "DE".parse().unwrap(),
        from,
        to: from + Duration::HOUR,
        intensity: mg_per_kwh,
        source: "test".into(),
        version: "1".into(),
        is_estimated: false,
    };
    Factor::new(Signal::Average, Method::Location, fact).unwrap()
}

/// Where the node stands: in `DE`, with a PUE of 1.5 and known hardware.
pub fn site(from: OffsetDateTime) -> Site {
    Site {
        from,
        zone: Some("DE".parse().unwrap()),
        marginal_zone: Some("DE_LU".parse().unwrap()),
        pue_ppm: 1_500_000,
        pue_is_estimated: false,
        wue_ul_per_kwh: Some(1),
        ewif_ul_per_kwh: None,
        ewif_is_estimated: false,
        cfe_ppm: 0,
        hardware: Some(Hardware {
            min_g: 1,
            mid_g: 2,
            max_g: 3,
            life_s: 4,
            threads: 5,
        }),
    }
}

/// What the day of a tenant's `d` was worth, as of an instant.
pub fn valuation(day: OffsetDateTime, as_of: OffsetDateTime, tenant: TenantId, ug: u64) -> Valuation {
    let figure = |amount, covered_uj| Figure {
        amount,
        covered_uj,
        estimated_uj: covered_uj / 2,
        versions: vec![("test".into(), "1".into())],
    };
    // What each used in a window of `window`.
    let energy_uj = if tenant == B { 20 } else { 30 };
    Valuation {
        day,
        node: NODE,
        as_of,
        tenant,
        deployment: Some(name("d")),
        lines: 1,
        lines_unmetered: 0,
        valued: Valued {
            energy_uj: Some(energy_uj),
            used_ns: 14,
            location: figure(Some(ug), energy_uj),
            market: figure(Some(0), 20),
            marginal: figure(None, 0),
            water: Figure::default(),
            embodied: Some(Range {
                min_ug: 1,
                mid_ug: 2,
                max_ug: 3,
            }),
            embodied_ns: 14,
        },
    }
}

pub fn invocation(seq: u64, tenant: TenantId) -> InvocationId {
    InvocationId(Uuid::from_u128((u128::from(seq) << 8) | tenant.0.as_u128()))
}

/// With the digests that fit it.
pub fn sealed(mut posting: Posting) -> Posting {
    posting.merkle_root = posting.compute_merkle_root();
    posting.hash = posting.compute_hash();
    posting
}

/// A correction of a tenant's use of the deployment `d`.
pub fn correction(tenant: TenantId, amount: i64, cites: Digest) -> Correction {
    Correction {
        id: Uuid::from_u128(tenant.0.as_u128() << 64 | u128::from(amount.cast_unsigned())),
        at: OffsetDateTime::UNIX_EPOCH,
        tenant,
        deployment: Some(name("d")),
        unit: Unit::Uj,
        amount,
        cites,
        reason: "the meter was wrong".into(),
        key: Uuid::from_u128(0x3e),
    }
}

/// A sealer in an epoch of its own whose first posting follows the one with the hash `head`.
pub fn sealer(head: Digest) -> Sealer {
    let (epoch, start) = (Epoch(Uuid::from_u128(0xc)), OffsetDateTime::UNIX_EPOCH);
    Sealer::new(NODE, epoch, 0, head, start, vec![], OpenReceipts::default())
}

/// A statement of a tenant.
pub fn statement(month: Month, tenant: TenantId) -> StatementRow {
    let body = format!("{{\"month\":\"{month}\"}}");
    StatementRow {
        month,
        tenant,
        digest: Digest::of(body.as_bytes()),
        body,
    }
}

/// A line of a month's statement, without a price.
pub fn charge(month: Month) -> Line {
    Line {
        month,
        class: Class::Usage,
        deployment: Some(name("d")),
        item: Item::Energy,
        plan: None,
        from: month.begin(),
        to: month.end(),
        quantity: 5,
        rate: Rate::ZERO,
        currency: Currency::NONE,
        amount: 0,
        provenance: Some(Provenance::Measured),
        emitted: None,
    }
}
