budget "acme {
}
