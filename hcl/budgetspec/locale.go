package budgetspec

import (
	"strings"
	"time"
	_ "time/tzdata" // so that zones are known on hosts without a database
)

const defaultCurrency = "USD"

// zone finds an IANA time zone. "Local" and the names that a host gives to its
// own settings are not zones: each replica would read them differently.
func zone(name string) (*time.Location, bool) {
	switch {
	case name == "", name == "Local", name == "localtime", name == "posixrules", name == "Factory",
		strings.HasPrefix(name, "posix/"), strings.HasPrefix(name, "right/"):
		return nil, false
	}
	loc, err := time.LoadLocation(name)
	return loc, err == nil
}

// zoneWithCapitals is the zone that a name means when only its capitals are
// wrong ("europe/berlin"), or "".
func zoneWithCapitals(name string) string {
	title := []byte(strings.ToLower(name))
	for i, c := range title {
		if c >= 'a' && c <= 'z' && (i == 0 || title[i-1] == '/' || title[i-1] == '_' || title[i-1] == '-') {
			title[i] = c - 'a' + 'A'
		}
	}
	for _, guess := range []string{string(title), strings.ToUpper(name)} {
		if _, ok := zone(guess); ok {
			return guess
		}
	}
	return ""
}

// currencies are the national codes of ISO 4217 in use. Codes that begin with X
// are outside nations: an organisation that counts in credits of its own may
// use one ("XCR").
const currencies = "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD " +
	"CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD " +
	"HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD " +
	"MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG " +
	"QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD " +
	"TZS UAH UGX USD UYU UZS VED VES VND VUV WST YER ZAR ZMW ZWG"

func validCurrency(code string) bool {
	if len(code) != 3 || strings.ToUpper(code) != code || strings.Contains(code, " ") {
		return false
	}
	if code[0] == 'X' {
		return code[1] >= 'A' && code[1] <= 'Z' && code[2] >= 'A' && code[2] <= 'Z'
	}
	return strings.Contains(currencies, code)
}
