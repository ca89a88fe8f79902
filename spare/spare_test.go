package spare

import "testing"

func TestListKeepsTheLastWithinItsBytes(t *testing.T) {
	l := List[*int]{Most: 10}
	if l.Get() != nil {
		t.Fatal("an empty list gave something")
	}
	a, b, c := new(int), new(int), new(int)
	l.Put(a, 6)
	l.Put(b, 4)
	l.Put(c, 1) // too much
	if l.Get() != b || l.Get() != a || l.Get() != nil {
		t.Error("not what was put, last first")
	}
	l.Put(c, 11)
	if l.Get() != nil {
		t.Error("one larger than the list was kept")
	}
	var none List[*int]
	if none.Put(a, 1); none.Get() != nil {
		t.Error("the zero value kept something")
	}
}
