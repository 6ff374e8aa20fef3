//! What an older release left in the database is there after the migrations of this one.

use db::MIGRATOR;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

/// The last migration with a row for each receipt line.
const ROWS: i64 = 20261130180000;

/// A posting in each of four months, the last of which has no partition: calls of two tenants, most in one slot.
const OLD: &str = "
    select wattle_make_partitions(now() + interval '2 months');
    insert into posting (node, epoch, seq, kind, began_at, ended_at, fuel_schedule, input_digest, merkle_root, prev_hash,
        hash)
    select '00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000002', seq, 'window',
        at - interval '1 s', at, 1, sha256('inputs'), sha256('root'), sha256(('posting ' || seq)::bytea),
        sha256(('posting ' || seq + 1)::bytea)
    from generate_series(0, 3) seq
    cross join lateral (select date_trunc('month', now()) + interval '10 days' + seq * interval '1 month' as at) p;
    insert into receipt_line (at, node, epoch, seq, tenant, invocation, ordinal, kind, deployment, release, started_at,
        outcome, fuel_schedule, fuel, cpu_ns, model_ns, bytes_in, bytes_out, peak_memory_bytes, energy_uj, work)
    select p.ended_at, p.node, p.epoch, p.seq, md5('tenant ' || n % 7 % 2)::uuid,
        ('0000000' || n / 3900 || right(md5(n::text), 24))::uuid, 0,
        case n % 5 when 0 then 'publish' else 'infer' end, case n % 5 when 0 then null else 'd' end, nullif(n % 5, 0),
        p.began_at, case n % 3 when 0 then null else 'ok' end, 1, n, n * 2, n * 3, n * 4, n * 5, n * 6,
        case n % 11 when 0 then null else n end,
        case n % 2 when 0 then '[]' else '[{\"graph\": \"x\", \"cpu_ns\": 5}]' end::jsonb
    from posting p
    cross join generate_series(1, 4000) n;";

/// How many lines there are, and a digest of them all.
async fn lines(owner: &PgPool) -> (i64, String) {
    let lines =
        "select count(*), md5(string_agg(l::text, '' order by at, tenant, invocation)) from receipt_line l";
    sqlx::query_as(lines).fetch_one(owner).await.unwrap()
}

#[sqlx::test(migrations = false)]
async fn lines_of_before_there_were_blocks_stay(_: PgPoolOptions, options: PgConnectOptions) {
    let owner = PgPoolOptions::new().connect_with(options).await.unwrap();
    MIGRATOR.run_to(ROWS, &owner).await.unwrap();
    sqlx::raw_sql(OLD).execute(&owner).await.unwrap();
    let before = lines(&owner).await;
    assert_eq!(before.0, 16_000);
    MIGRATOR.run(&owner).await.unwrap();
    assert_eq!(lines(&owner).await, before);
    // Three and two of more than a thousand lines in the first slot, two in the other.
    let blocks: Vec<(String, i64, i32)> = sqlx::query_as(
        "select case when tableoid = 'receipt_block_default'::regclass then 'default' else 'month' end, count(*),
             max(lines)
         from receipt_block group by 1 order by 1",
    )
    .fetch_all(&owner)
    .await
    .unwrap();
    assert_eq!(
        blocks,
        [("default".into(), 7, 1_000), ("month".into(), 21, 1_000)]
    );
    owner.close().await;
}
