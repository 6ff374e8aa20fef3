//! Charges in the columns of FOCUS (FinOps Open Cost and Usage Specification) 1.2, with energy and carbon in columns of
//! our own, whose names begin with `x_`. Decimals are exact, and text in JSON and CSV.

use db::Charge;
use domain::billing::Item;
use domain::billing::money::decimal;
use domain::billing::statement::{Class, Line};
use domain::{Digest, Name, TenantId};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{csv, schema};
use crate::columnar::Kind;

/// Who charges, in the columns that name it.
const PROVIDER: &str = "Wattle";

/// Decimal digits of quantities: a kWh has 3.6·10¹² µJ.
const QUANTITY_DIGITS: u32 = 12;

/// Every column, in the order of CSV and Parquet, with what is in it.
pub const COLUMNS: [(&str, Kind); 36] = [
    ("BilledCost", Kind::Decimal),
    ("BillingAccountId", Kind::Text),
    ("BillingAccountName", Kind::Text),
    ("BillingCurrency", Kind::Text),
    ("BillingPeriodEnd", Kind::Instant),
    ("BillingPeriodStart", Kind::Instant),
    ("ChargeCategory", Kind::Text),
    ("ChargeClass", Kind::Text),
    ("ChargeDescription", Kind::Text),
    ("ChargeFrequency", Kind::Text),
    ("ChargePeriodEnd", Kind::Instant),
    ("ChargePeriodStart", Kind::Instant),
    ("ConsumedQuantity", Kind::Decimal),
    ("ConsumedUnit", Kind::Text),
    ("ContractedCost", Kind::Decimal),
    ("ContractedUnitPrice", Kind::Decimal),
    ("EffectiveCost", Kind::Decimal),
    ("InvoiceId", Kind::Text),
    ("InvoiceIssuerName", Kind::Text),
    ("ListCost", Kind::Decimal),
    ("ListUnitPrice", Kind::Decimal),
    ("PricingCategory", Kind::Text),
    ("PricingQuantity", Kind::Decimal),
    ("PricingUnit", Kind::Text),
    ("ProviderName", Kind::Text),
    ("PublisherName", Kind::Text),
    ("ResourceId", Kind::Text),
    ("ServiceCategory", Kind::Text),
    ("ServiceName", Kind::Text),
    ("SkuPriceId", Kind::Text),
    ("x_EnergyMicrojoules", Kind::Integer),
    ("x_CarbonLocationGrams", Kind::Decimal),
    ("x_CarbonMarketGrams", Kind::Decimal),
    ("x_EmbodiedGrams", Kind::Decimal),
    ("x_DataQuality", Kind::Text),
    ("x_ReceiptHash", Kind::Text),
];

/// A charge in the columns of FOCUS 1.2 and our own.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "PascalCase")]
pub struct FocusCharge {
    /// What it comes to: a decimal of the currency's major unit. All costs are the same, as there are no discounts.
    #[schema(example = "12.05")]
    billed_cost: String,
    /// The tenant.
    #[schema(value_type = Uuid)]
    billing_account_id: TenantId,
    /// The tenant's name.
    billing_account_name: String,
    /// The currency; `XXX` for what has no price.
    billing_currency: String,
    /// When the statement's month ends, exclusively.
    #[serde(with = "time::serde::rfc3339")]
    billing_period_end: OffsetDateTime,
    /// When it begins.
    #[serde(with = "time::serde::rfc3339")]
    billing_period_start: OffsetDateTime,
    /// `Usage`, or `Purchase` for a flat price.
    charge_category: &'static str,
    /// `Correction` for what came late of a closed month or was corrected, else null.
    charge_class: Option<&'static str>,
    /// What it is for, in words.
    charge_description: String,
    /// `Usage-Based` or `Recurring`.
    charge_frequency: &'static str,
    /// When what is charged ended, exclusively.
    #[serde(with = "time::serde::rfc3339")]
    charge_period_end: OffsetDateTime,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    charge_period_start: OffsetDateTime,
    /// How much was used, rounded to 12 digits behind the point; null for a flat price.
    consumed_quantity: Option<String>,
    /// In which unit.
    consumed_unit: Option<&'static str>,
    /// As `BilledCost`.
    contracted_cost: String,
    /// As `ListUnitPrice`.
    contracted_unit_price: Option<String>,
    /// As `BilledCost`.
    effective_cost: String,
    /// The statement: its month and tenant.
    #[schema(example = "2027-01/00000000-0000-7000-8000-000000000000")]
    invoice_id: String,
    /// Who charges.
    invoice_issuer_name: &'static str,
    /// As `BilledCost`.
    list_cost: String,
    /// What a unit costs; null for what has no price.
    list_unit_price: Option<String>,
    /// `Standard`.
    pricing_category: &'static str,
    /// How much is priced, rounded to 12 digits behind the point.
    pricing_quantity: String,
    /// In which unit.
    pricing_unit: &'static str,
    /// Who provides it.
    provider_name: &'static str,
    /// Who publishes it.
    publisher_name: &'static str,
    /// The deployment; null for what belongs to none.
    #[schema(value_type = Option<schema::Name>)]
    resource_id: Option<Name>,
    /// `AI and Machine Learning`.
    service_category: &'static str,
    /// The service.
    service_name: &'static str,
    /// The plan and the item; null without a plan.
    #[schema(example = "7/energy")]
    sku_price_id: Option<String>,
    /// Energy, exactly, of lines of energy.
    #[serde(rename = "x_EnergyMicrojoules")]
    x_energy_microjoules: Option<i64>,
    /// Location-based carbon, of lines of carbon; null where nothing is known.
    #[serde(rename = "x_CarbonLocationGrams")]
    x_carbon_location_grams: Option<String>,
    /// Market-based carbon.
    #[serde(rename = "x_CarbonMarketGrams")]
    x_carbon_market_grams: Option<String>,
    /// Embodied carbon, the likely mass.
    #[serde(rename = "x_EmbodiedGrams")]
    x_embodied_grams: Option<String>,
    /// The least of how readings came about, of lines of energy: `measured`, `modelled` or `estimated`.
    #[serde(rename = "x_DataQuality")]
    x_data_quality: Option<&'static str>,
    /// SHA-256 over the hashes of the postings that entered the ledger since the cut of the month before.
    #[serde(rename = "x_ReceiptHash")]
    #[schema(value_type = schema::Digest)]
    x_receipt_hash: Digest,
}

impl From<Charge> for FocusCharge {
    fn from(charge: Charge) -> Self {
        let line = &charge.line;
        let cost = line.currency.decimal(line.amount);
        let quantity = decimal(line.quantity, line.item.per(line.month), QUANTITY_DIGITS);
        let (unit, is_flat) = (line.item.unit(), line.item == Item::Flat);
        let price = line
            .plan
            .filter(|_| line.item != Item::Carbon)
            .map(|_| line.rate.to_string());
        let grams = |ug: Option<i64>| ug.map(|ug| decimal(ug.into(), 1_000_000, 6));
        let told = line.emitted.as_ref();
        Self {
            billing_account_id: charge.tenant,
            billing_account_name: charge.tenant_name,
            billing_currency: line.currency.to_string(),
            billing_period_end: charge.month.end(),
            billing_period_start: charge.month.begin(),
            charge_category: if is_flat { "Purchase" } else { "Usage" },
            charge_class: (line.class == Class::Correction).then_some("Correction"),
            charge_description: described(line),
            charge_frequency: if is_flat { "Recurring" } else { "Usage-Based" },
            charge_period_end: line.to,
            charge_period_start: line.from,
            consumed_quantity: (!is_flat).then(|| quantity.clone()),
            consumed_unit: (!is_flat).then_some(unit),
            contracted_cost: cost.clone(),
            contracted_unit_price: price.clone(),
            effective_cost: cost.clone(),
            invoice_id: format!("{}/{}", charge.month, charge.tenant),
            invoice_issuer_name: PROVIDER,
            list_cost: cost.clone(),
            list_unit_price: price,
            billed_cost: cost,
            pricing_category: "Standard",
            pricing_quantity: quantity,
            pricing_unit: unit,
            provider_name: PROVIDER,
            publisher_name: PROVIDER,
            resource_id: line.deployment.clone(),
            service_category: "AI and Machine Learning",
            service_name: PROVIDER,
            sku_price_id: line.plan.map(|plan| format!("{plan}/{}", line.item.as_str())),
            x_energy_microjoules: i64::try_from(line.quantity)
                .ok()
                .filter(|_| line.item == Item::Energy),
            x_carbon_location_grams: grams(told.and_then(|told| told.location_ug)),
            x_carbon_market_grams: grams(told.and_then(|told| told.market_ug)),
            x_embodied_grams: grams(told.and_then(|told| told.embodied_ug)),
            x_data_quality: line.provenance.map(|provenance| provenance.as_str()),
            x_receipt_hash: charge.postings_digest,
        }
    }
}

/// What a line is for, in words.
fn described(line: &Line) -> String {
    let what = match line.item {
        Item::Energy => "energy",
        Item::Fuel => "fuel",
        Item::Memory => "memory",
        Item::Token => "tokens",
        Item::Call => "calls",
        Item::Flat => "flat price",
        Item::Carbon => "carbon",
    };
    let whose = line.deployment.as_ref().map(|name| format!(" of {name}"));
    let late = match line.class {
        Class::Usage => String::new(),
        Class::Correction => format!(", correction for {}", line.month),
    };
    format!("{what}{}{late}", whose.unwrap_or_default())
}

/// The values of a charge, as text, in the order of [`COLUMNS`].
pub fn cells(charge: &FocusCharge) -> Vec<Option<String>> {
    csv::cells(charge, COLUMNS.iter().map(|(name, _)| *name))
}

#[cfg(test)]
pub(super) mod tests {
    use domain::billing::{Currency, Rate};

    use super::*;

    /// A charge for energy.
    pub fn charge() -> Charge {
        let month: domain::billing::Month = "2027-01".parse().unwrap();
        Charge {
            id: 1,
            month,
            tenant: TenantId(uuid::Uuid::nil()),
            tenant_name: "acacia".into(),
            postings_digest: Digest::ZERO,
            line: Line {
                month,
                class: Class::Usage,
                deployment: Some("echo".parse().unwrap()),
                item: Item::Energy,
                plan: Some(7),
                from: month.begin(),
                to: month.end(),
                quantity: 5_400_000_000_000,
                rate: "0.31".parse::<Rate>().unwrap(),
                currency: "EUR".parse::<Currency>().unwrap(),
                amount: 47,
                provenance: Some(domain::energy::Provenance::Modelled),
                emitted: None,
            },
        }
    }

    #[test]
    fn every_column_is_named_once_and_has_its_member() {
        let row = serde_json::to_value(FocusCharge::from(charge())).unwrap();
        let mut members: Vec<_> = row.as_object().unwrap().keys().cloned().collect();
        let mut columns: Vec<_> = COLUMNS.iter().map(|(name, _)| (*name).to_owned()).collect();
        members.sort();
        columns.sort();
        assert_eq!(columns, members);
    }

    #[test]
    fn a_charge_is_written_exactly() {
        let cells = cells(&FocusCharge::from(charge()));
        let cell = |name: &str| {
            let at = COLUMNS.iter().position(|(column, _)| *column == name).unwrap();
            cells[at].clone()
        };
        for (name, value) in [
            ("BilledCost", "0.47"),
            ("ConsumedQuantity", "1.500000000000"),
            ("ConsumedUnit", "kWh"),
            ("ListUnitPrice", "0.31"),
            ("x_EnergyMicrojoules", "5400000000000"),
            ("x_DataQuality", "modelled"),
            ("BillingPeriodStart", "2027-01-01T00:00:00Z"),
            ("BillingPeriodEnd", "2027-02-01T00:00:00Z"),
            ("SkuPriceId", "7/energy"),
            ("ChargeDescription", "energy of echo"),
        ] {
            assert_eq!(cell(name).as_deref(), Some(value), "{name}");
        }
        assert_eq!((cell("ChargeClass"), cell("x_CarbonLocationGrams")), (None, None));
    }

    #[test]
    fn every_value_fits_its_column() {
        let rows = [cells(&FocusCharge::from(charge()))];
        assert!(crate::columnar::written("charge", &COLUMNS, &rows).is_ok());
    }
}
