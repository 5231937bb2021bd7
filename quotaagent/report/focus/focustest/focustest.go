package focustest

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Violation is one cell, or one column, that breaks a rule.
type Violation struct {
	// Row counts from 1; 0 is the head.
	Row int
	// Rule is what is asked for, Source the page that asks for it.
	Rule, Source string
	Got          string
}

// String is the violation for people.
func (v Violation) String() string {
	return fmt.Sprintf("row %d: %s (%s): got %q", v.Row, v.Rule, v.Source, v.Got)
}

// mandatory are the columns that every dataset has (columns/*.md, feature level
// Mandatory in 1.2). The names are the column ids.
var mandatory = []string{"BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass",
	"ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit",
	"ProviderName", "PublisherName", "ServiceCategory", "ServiceName"}

// notNull never are (each column's page, "Allows nulls: False").
var notNull = []string{"BilledCost", "BillingAccountId", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargePeriodEnd", "ChargePeriodStart",
	"ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName", "ChargeFrequency"}

// known are the columns of 1.2 besides the mandatory ones; all others begin with x_
// (attributes/column_naming_and_ordering.md).
var known = []string{"AvailabilityZone", "BillingAccountType", "CapacityReservationId", "CapacityReservationStatus", "ChargeFrequency", "CommitmentDiscountCategory",
	"CommitmentDiscountId", "CommitmentDiscountName", "CommitmentDiscountQuantity", "CommitmentDiscountStatus", "CommitmentDiscountType", "CommitmentDiscountUnit",
	"ConsumedQuantity", "ConsumedUnit", "ContractedUnitPrice", "InvoiceId", "ListUnitPrice", "PricingCategory", "PricingCurrency", "PricingCurrencyContractedUnitPrice",
	"PricingCurrencyEffectiveCost", "PricingCurrencyListUnitPrice", "RegionId", "RegionName", "ResourceId", "ResourceName", "ResourceType", "ServiceSubcategory", "SkuId",
	"SkuMeter", "SkuPriceDetails", "SkuPriceId", "SubAccountId", "SubAccountName", "SubAccountType", "Tags"}

// allowed are the values of columns that have a list of them (their pages, "Allowed
// values"; of the services those that a GPU cluster can be).
var allowed = map[string][]string{
	"ChargeCategory":            {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
	"ChargeClass":               {"", "Correction"},
	"ChargeFrequency":           {"One-Time", "Recurring", "Usage-Based"},
	"PricingCategory":           {"", "Standard", "Dynamic", "Committed", "Other"},
	"CapacityReservationStatus": {"", "Used", "Unused"},
	"ServiceCategory": {"AI and Machine Learning", "Analytics", "Business Applications", "Compute", "Databases", "Developer Tools", "Multicloud", "Identity", "Integration",
		"Internet of Things", "Management and Governance", "Media", "Migration", "Mobile", "Networking", "Security", "Storage", "Web", "Other"},
}

// parents are the categories of subcategories (columns/servicesubcategory.md).
var parents = map[string]string{"Other (Compute)": "Compute", "Containers": "Compute", "Generative AI": "AI and Machine Learning", "Machine Learning": "AI and Machine Learning"}

var (
	// number is attributes/numeric_format.md: no sign but minus, no separators.
	number = regexp.MustCompile(`^-?[0-9]+(\.[0-9]+)?$`)
	// moment is attributes/datetime_format.md.
	moment = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`)
	// currencyCode is attributes/currency_code_format.md: ISO 4217.
	currencyCode = regexp.MustCompile(`^[A-Z]{3}$`)
	// columnName is Pascal case, and x_ before what is not in the specification.
	columnName = regexp.MustCompile(`^(x_)?[A-Z][A-Za-z0-9]*$`)
	// unit is attributes/unit_format.md: a unit, with a quantity or an interval.
	unit = regexp.MustCompile(`^([0-9]+ )?[A-Za-z]+(-(Hours|Days|Months))?$`)
)

// Check reads a table and returns all that breaks a rule.
func Check(r io.Reader) ([]Violation, error) {
	records, err := csv.NewReader(r).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("read the table: %w", err)
	}
	if len(records) == 0 {
		return []Violation{{Rule: "it has a head", Source: "columns"}}, nil
	}
	c := &checker{head: records[0]}
	c.checkHead()
	for i, record := range records[1:] {
		c.row, c.cells = i+1, record
		c.checkRow()
	}
	return c.found, nil
}

type checker struct {
	head, cells []string
	row         int
	found       []Violation
}

func (c *checker) fail(rule, source, got string) {
	c.found = append(c.found, Violation{Row: c.row, Rule: rule, Source: source, Got: got})
}

// must notes a rule that is broken.
func (c *checker) must(ok bool, rule, source, got string) {
	if !ok {
		c.fail(rule, source, got)
	}
}

// at is the cell of a column, and "" where there is none.
func (c *checker) at(column string) string {
	if i := slices.Index(c.head, column); i >= 0 && i < len(c.cells) {
		return c.cells[i]
	}
	return ""
}

func page(column string) string { return "columns/" + strings.ToLower(column) + ".md" }

func (c *checker) checkHead() {
	for _, name := range mandatory {
		c.must(slices.Contains(c.head, name), name+" is there", page(name), "")
	}
	for i, name := range c.head {
		c.must(columnName.MatchString(name), "column ids are in Pascal case", "attributes/column_naming_and_ordering.md", name)
		c.must(slices.Contains(mandatory, name) || slices.Contains(known, name) || strings.HasPrefix(name, "x_"), "columns that are not in the specification begin with x_",
			"attributes/column_naming_and_ordering.md", name)
		c.must(slices.Index(c.head, name) == i, "each column is there once", "attributes/column_naming_and_ordering.md", name)
	}
}

func (c *checker) checkRow() {
	for _, name := range notNull {
		if slices.Contains(c.head, name) {
			c.must(c.at(name) != "", name+" is not null", page(name), "")
		}
	}
	for column, values := range allowed {
		if slices.Contains(c.head, column) {
			c.must(slices.Contains(values, c.at(column)), column+" is one of the allowed values", page(column), c.at(column))
		}
	}
	for _, name := range []string{"BilledCost", "ContractedCost", "EffectiveCost", "ListCost", "PricingQuantity", "ConsumedQuantity", "ListUnitPrice"} {
		c.must(c.at(name) == "" || number.MatchString(c.at(name)), name+" is a plain decimal", "attributes/numeric_format.md", c.at(name))
	}
	c.must(currencyCode.MatchString(c.at("BillingCurrency")), "BillingCurrency is a code of ISO 4217", "attributes/currency_code_format.md", c.at("BillingCurrency"))
	c.checkTimes()
	c.checkPresence()
	c.checkCosts()
}

func (c *checker) checkTimes() {
	for _, name := range []string{"BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd"} {
		c.must(moment.MatchString(c.at(name)), name+" is in UTC and ISO 8601", "attributes/datetime_format.md", c.at(name))
	}
	parse := func(name string) time.Time { at, _ := time.Parse(time.RFC3339, c.at(name)); return at }
	from, to, start, end := parse("BillingPeriodStart"), parse("BillingPeriodEnd"), parse("ChargePeriodStart"), parse("ChargePeriodEnd")
	c.must(from.Before(to), "BillingPeriodEnd is exclusive, and after the start", page("BillingPeriodEnd"), c.at("BillingPeriodEnd"))
	c.must(start.Before(end), "ChargePeriodEnd is exclusive, and after the start", page("ChargePeriodEnd"), c.at("ChargePeriodEnd"))
	c.must(!start.Before(from) && !end.After(to), "the charge period of usage is in the billing period", page("ChargePeriodStart"), c.at("ChargePeriodStart"))
}

// checkPresence checks what is null and what is not, by the category of the charge.
func (c *checker) checkPresence() {
	category, usage := c.at("ChargeCategory"), c.at("ChargeCategory") == "Usage" && c.at("ChargeClass") != "Correction"
	for _, name := range []string{"PricingQuantity", "PricingUnit", "ListUnitPrice", "PricingCategory", "SkuId", "SkuPriceId", "ConsumedQuantity", "ConsumedUnit"} {
		if slices.Contains(c.head, name) {
			c.must(!usage || c.at(name) != "", name+" is not null for usage", page(name), "")
			c.must(category != "Tax" || c.at(name) == "", name+" is null for taxes", page(name), c.at(name))
		}
	}
	c.must(category == "Usage" || c.at("ConsumedQuantity") == "", "ConsumedQuantity is null but for usage", page("ConsumedQuantity"), c.at("ConsumedQuantity"))
	for _, pair := range [][2]string{{"SkuMeter", "SkuId"}, {"SkuPriceId", "SkuId"}, {"ResourceType", "ResourceId"}, {"ResourceName", "ResourceId"}, {"SubAccountName", "SubAccountId"},
		{"CapacityReservationStatus", "CapacityReservationId"}, {"ConsumedUnit", "ConsumedQuantity"}, {"PricingUnit", "PricingQuantity"}} {
		c.must((c.at(pair[0]) == "") == (c.at(pair[1]) == ""), pair[0]+" is null where "+pair[1]+" is, and nowhere else", page(pair[0]), c.at(pair[0]))
	}
	for _, name := range []string{"PricingUnit", "ConsumedUnit"} {
		c.must(c.at(name) == "" || unit.MatchString(c.at(name)), name+" is a unit, or a number of units", "attributes/unit_format.md", c.at(name))
	}
	if sub := c.at("ServiceSubcategory"); sub != "" {
		c.must(parents[sub] == c.at("ServiceCategory"), "ServiceSubcategory is one of the category's", page("ServiceSubcategory"), sub)
	}
	if text := c.at("Tags"); text != "" {
		tags := map[string]any{}
		c.must(json.Unmarshal([]byte(text), &tags) == nil, "Tags are a JSON object", "attributes/key_value_format.md", text)
		for key := range tags {
			c.must(strings.Contains(key, "/"), "tags that the provider defines have its prefix", page("Tags"), key)
		}
	}
	c.must(c.at("ChargeFrequency") != "Usage-Based" || category != "Purchase", "purchases are not usage-based", page("ChargeFrequency"), "")
}

// checkCosts checks the costs against one another, and against quantity and price.
func (c *checker) checkCosts() {
	billed, effective, contracted, list := c.rat("BilledCost"), c.rat("EffectiveCost"), c.rat("ContractedCost"), c.rat("ListCost")
	if billed == nil || effective == nil || contracted == nil || list == nil {
		return // said already
	}
	size := func(r *big.Rat) *big.Rat { return new(big.Rat).Abs(r) }
	c.must(size(list).Cmp(size(contracted)) >= 0 && size(contracted).Cmp(size(effective)) >= 0, "list cost is no less than contracted, and that no less than effective cost",
		page("ListCost"), c.at("ListCost"))
	if category := c.at("ChargeCategory"); category == "Credit" || category == "Adjustment" {
		c.must(effective.Cmp(billed) == 0, "EffectiveCost is BilledCost for charges unrelated to others", page("EffectiveCost"), c.at("EffectiveCost"))
		c.must(contracted.Cmp(billed) == 0, "ContractedCost is BilledCost for charges unrelated to others", page("ContractedCost"), c.at("ContractedCost"))
	}
	quantity, price := c.rat("PricingQuantity"), c.rat("ListUnitPrice")
	if quantity == nil || price == nil || c.at("ChargeClass") == "Correction" {
		return
	}
	c.must(price.Sign() >= 0, "ListUnitPrice is not negative", page("ListUnitPrice"), c.at("ListUnitPrice"))
	product := new(big.Rat).Mul(quantity, price)
	// Money has six places, and usage is posted in parts that are rounded each.
	tolerance := new(big.Rat).Add(new(big.Rat).Quo(size(product), big.NewRat(1000, 1)), big.NewRat(3, 1_000_000))
	c.must(size(new(big.Rat).Sub(product, list)).Cmp(tolerance) <= 0, "PricingQuantity times ListUnitPrice is ListCost", page("PricingQuantity"), c.at("ListCost"))
}

func (c *checker) rat(column string) *big.Rat {
	if !number.MatchString(c.at(column)) {
		return nil
	}
	r, _ := new(big.Rat).SetString(c.at(column))
	return r
}
