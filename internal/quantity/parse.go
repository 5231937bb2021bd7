package quantity

import (
	"fmt"
	"math/big"
	"regexp"
)

// decimal is a plain positive number: no sign, no exponent, no separators.
var decimal = regexp.MustCompile(`^[0-9]{1,18}(\.[0-9]{1,9})?$`)

// ParseDecimal reads a plain decimal number of units: ParseDecimal("1.5",
// GPUHour) is 5,400,000. It must be positive and a whole number of base units.
func ParseDecimal(text string, unit Amount) (Amount, error) {
	if !decimal.MatchString(text) {
		return 0, fmt.Errorf("%.40q is not a plain positive number such as 500 or 2.5", text)
	}
	r, _ := new(big.Rat).SetString(text) // the pattern is a number
	r.Mul(r, new(big.Rat).SetInt64(int64(unit)))
	switch {
	case r.Sign() == 0:
		return 0, fmt.Errorf("%s is zero; it must be more", text)
	case !r.IsInt():
		return 0, fmt.Errorf("%s has more decimals than are counted", text)
	case !r.Num().IsInt64():
		return 0, fmt.Errorf("%s is too large", text)
	}
	return Amount(r.Num().Int64()), nil
}
