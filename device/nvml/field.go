package nvml

import (
	"encoding/binary"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/nomad-governor/governor/device/inventory"
)

// Value types of a field (nvmlValueType_t).
const (
	typeUnsignedInt   = 1
	typeUnsignedLong  = 2
	typeUnsigned64    = 3
	typeSigned64      = 4
	typeSignedInt     = 5
	typeUnsignedShort = 6
)

// allLinks is the scope of a field that sums over all NVLinks.
const allLinks = 0xFFFFFFFF

// fieldID names one field value to read.
type fieldID struct{ id, scope uint32 }

// fields reads several field values in one call, in the order asked.
func (r *Reader) fields(device nvml.Device, ids ...fieldID) []inventory.Maybe[int64] {
	numbers := make([]inventory.Maybe[int64], len(ids))
	if !r.symbols.has("nvmlDeviceGetFieldValues") {
		return numbers
	}
	values := make([]nvml.FieldValue, len(ids))
	for i, f := range ids {
		values[i] = nvml.FieldValue{FieldId: f.id, ScopeId: f.scope}
	}
	if ret := device.GetFieldValues(values); ret != nvml.SUCCESS {
		return numbers
	}
	for i, v := range values {
		if nvml.Return(v.NvmlReturn) == nvml.SUCCESS {
			numbers[i] = fieldNumber(v)
		}
	}
	return numbers
}

// field reads one field value as a number.
func (r *Reader) field(device nvml.Device, id, scope uint32) inventory.Maybe[int64] {
	return r.fields(device, fieldID{id, scope})[0]
}

func fieldNumber(f nvml.FieldValue) inventory.Maybe[int64] {
	raw := binary.NativeEndian.Uint64(f.Value[:])
	switch f.ValueType {
	case typeUnsignedInt:
		return inventory.Known(int64(uint32(raw)))
	case typeSignedInt:
		return inventory.Known(int64(int32(raw)))
	case typeUnsignedShort:
		return inventory.Known(int64(uint16(raw)))
	case typeUnsignedLong, typeUnsigned64, typeSigned64:
		return inventory.Known(int64(raw))
	}
	return inventory.Maybe[int64]{}
}
