package gateway

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"im/http-server/backend/backendtest"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var secret = []byte("a secret of more than 32 bytes, which is the least")

// publicPEM is the file of a public key.
func publicPEM(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// valid are the claims of a good token of jack's.
func valid() jwt.MapClaims {
	return jwt.MapClaims{"sub": "jack", "exp": time.Now().Add(time.Hour).Unix(), "aud": "im", "iss": "login"}
}

// bearer signs a token, as the header's value. change alters the claims.
func bearer(t *testing.T, method jwt.SigningMethod, key any, change func(jwt.MapClaims)) string {
	t.Helper()
	claims := valid()
	if change != nil {
		change(claims)
	}
	token, err := jwt.NewWithClaims(method, claims).SignedString(key)
	require.NoError(t, err)
	return "Bearer " + token
}

func TestAuth_LetsNobodyInWithoutAGoodToken(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	public := publicPEM(t, rsaKey)
	hs, rs := jwt.SigningMethodHS256, jwt.SigningMethodRS256
	b := backendtest.New()
	serve := func(secret, publicKey []byte) string {
		a, err := NewAuth(secret, publicKey, "im", "login", 5*time.Second)
		require.NoError(t, err)
		return serveWith(t, b, a)
	}
	byHMAC, byRSA := serve(secret, nil), serve(nil, public)
	tests := map[string]struct {
		base   string
		header string // "" is none
		detail string // "" is let in
	}{
		"a good one":                    {byHMAC, bearer(t, hs, secret, nil), ""},
		"a good one, signed with RSA":   {byRSA, bearer(t, rs, rsaKey, nil), ""},
		"sub in another case":           {byHMAC, bearer(t, hs, secret, func(c jwt.MapClaims) { c["sub"] = "JACK" }), ""},
		"the scheme in another case":    {byHMAC, "bEARER" + strings.TrimPrefix(bearer(t, hs, secret, nil), "Bearer"), ""},
		"one of several audiences":      {byHMAC, bearer(t, hs, secret, func(c jwt.MapClaims) { c["aud"] = []string{"other", "im"} }), ""},
		"none":                          {byHMAC, "", "a token is required"},
		"another scheme":                {byHMAC, "Basic amFjazpqYWNr", "Authorization must be given once"},
		"empty":                         {byHMAC, "Bearer ", "the token is not valid"},
		"no token":                      {byHMAC, "Bearer hello", "the token is not valid"},
		"expired":                       {byHMAC, bearer(t, hs, secret, func(c jwt.MapClaims) { c["exp"] = time.Now().Add(-7 * time.Second).Unix() }), "the token has expired"},
		"expired by a clock behind":     {byHMAC, bearer(t, hs, secret, func(c jwt.MapClaims) { c["exp"] = time.Now().Add(-2 * time.Second).Unix() }), ""},
		"nbf by a clock ahead":          {byHMAC, bearer(t, hs, secret, func(c jwt.MapClaims) { c["nbf"] = time.Now().Add(2 * time.Second).Unix() }), ""},
		"iat by a clock ahead":          {byHMAC, bearer(t, hs, secret, func(c jwt.MapClaims) { c["iat"] = time.Now().Add(2 * time.Second).Unix() }), ""},
		"without exp":                   {byHMAC, bearer(t, hs, secret, func(c jwt.MapClaims) { delete(c, "exp") }), "the token lacks a claim"},
		"not valid yet":                 {byHMAC, bearer(t, hs, secret, func(c jwt.MapClaims) { c["nbf"] = time.Now().Add(time.Hour).Unix() }), "the token is not valid yet"},
		"without sub":                   {byHMAC, bearer(t, hs, secret, func(c jwt.MapClaims) { delete(c, "sub") }), "the token lacks sub"},
		"sub is a number":               {byHMAC, bearer(t, hs, secret, func(c jwt.MapClaims) { c["sub"] = 7 }), "the token is not valid"},
		"another audience":              {byHMAC, bearer(t, hs, secret, func(c jwt.MapClaims) { c["aud"] = "other" }), "the token is for another audience"},
		"without audience":              {byHMAC, bearer(t, hs, secret, func(c jwt.MapClaims) { delete(c, "aud") }), "the token lacks a claim"},
		"another issuer":                {byHMAC, bearer(t, hs, secret, func(c jwt.MapClaims) { c["iss"] = "other" }), "the token is of another issuer"},
		"without issuer":                {byHMAC, bearer(t, hs, secret, func(c jwt.MapClaims) { delete(c, "iss") }), "the token lacks a claim"},
		"another key":                   {byHMAC, bearer(t, hs, []byte(strings.Repeat("x", 32)), nil), "the token is not valid"},
		"not signed":                    {byHMAC, bearer(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil), "the token is not valid"},
		"not signed, where RSA is":      {byRSA, bearer(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil), "the token is not valid"},
		"another hash":                  {byHMAC, bearer(t, jwt.SigningMethodHS512, secret, nil), "the token is not valid"},
		"HMAC by the public key's file": {byRSA, bearer(t, hs, public, nil), "the token is not valid"},
		"changed":                       {byHMAC, bearer(t, hs, secret, nil) + "A", "the token is not valid"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var headers []string
			if test.header != "" {
				headers = []string{"Authorization", test.header}
			}
			sent, sentBody := call(t, "POST", test.base+"/api/send", sendBody, headers...)
			pulled, pulledBody := call(t, "GET", test.base+"/api/pull?chat=jack:marcus", "", headers...)
			if test.detail == "" {
				assert.Equal(t, 200, sent.StatusCode, "%s", sentBody)
				assert.Equal(t, 200, pulled.StatusCode, "%s", pulledBody)
				<-b.Sends
				<-b.Pulls
				return
			}
			assert.Contains(t, problemIn(t, sent, sentBody).Detail, test.detail)
			assert.Contains(t, problemIn(t, pulled, pulledBody).Detail, test.detail)
			assert.Equal(t, 401, sent.StatusCode)
			assert.Equal(t, 401, pulled.StatusCode)
			challenge := `Bearer error="invalid_token"`
			if test.header == "" {
				challenge = "Bearer" // RFC 6750, 3.1
			}
			assert.Equal(t, challenge, sent.Header.Get("WWW-Authenticate"))
			assert.Empty(t, b.Sends)
			assert.Empty(t, b.Pulls)
		})
	}
}

func TestAuth_TwoTokensAreNone(t *testing.T) {
	t.Parallel()
	a, err := NewAuth(secret, nil, "", "", 0)
	require.NoError(t, err)
	good := bearer(t, jwt.SigningMethodHS256, secret, nil)
	resp, body := call(t, "POST", serveWith(t, backendtest.New(), a)+"/api/send", sendBody, "Authorization", good, "Authorization", good)
	assert.Equal(t, 401, resp.StatusCode)
	assert.Contains(t, problemIn(t, resp, body).Detail, "must be given once")
}

func TestAuth_ACallerIsHimselfAndInHisOwnChatsOnly(t *testing.T) {
	t.Parallel()
	a, err := NewAuth(secret, nil, "", "", 0)
	require.NoError(t, err)
	b := backendtest.New()
	base := serveWith(t, b, a)
	tests := map[string]struct {
		sub, chat, sender string
		send, pull        int
	}{
		"his own":                 {"jack", "jack:marcus", "jack", 200, 200},
		"written otherwise":       {"jaCK", "marcus:JACK", "Jack", 200, 200},
		"the other as sender":     {"jack", "jack:marcus", "marcus", 403, 200},
		"another's":               {"bob", "jack:marcus", "jack", 403, 403},
		"with himself":            {"jack", "jack:jack", "jack", 200, 200},
		"part of a member":        {"jac", "jack:marcus", "jack", 403, 403},
		"the whole chat":          {"jack:marcus", "jack:marcus", "jack", 403, 403},
		"beyond ASCII":            {"Ä🙂", "ä🙂:marcus", "ä🙂", 200, 200},
		"a dotted capital I":      {"İrem", "irem:marcus", "irem", 403, 403},
		"the Kelvin sign":         {"\u212aim", "kim:marcus", "kim", 403, 403},
		"a space more":            {"jack ", "jack:marcus", "jack", 403, 403},
		"another way to write it": {"é", "e\u0301:marcus", "e\u0301", 403, 403},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			token := bearer(t, jwt.SigningMethodHS256, secret, func(c jwt.MapClaims) { c["sub"] = test.sub })
			resp, body := call(t, "POST", base+"/api/send", `{"chat":"`+test.chat+`","text":"hello","sender":"`+test.sender+`"}`, "Authorization", token)
			assert.Equal(t, test.send, resp.StatusCode, "%s", body)
			if test.send == 403 {
				problemIn(t, resp, body)
			}
			resp, body = call(t, "GET", base+"/api/pull", `{"chat":"`+test.chat+`"}`, "Authorization", token)
			assert.Equal(t, test.pull, resp.StatusCode, "%s", body)
			if test.pull == 403 {
				problemIn(t, resp, body)
			}
		})
	}
}

func TestNewAuth_PinsTheAlgorithmToTheKey(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	require.NoError(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	keys := []struct {
		method jwt.SigningMethod
		key    crypto.Signer
	}{
		{jwt.SigningMethodRS256, rsaKey}, {jwt.SigningMethodES256, p256}, {jwt.SigningMethodES384, p384},
		{jwt.SigningMethodES512, p521}, {jwt.SigningMethodEdDSA, ed},
	}
	for _, of := range keys {
		a, err := NewAuth(nil, publicPEM(t, of.key), "", "", 0)
		require.NoError(t, err)
		for _, by := range keys {
			_, err := a.parser.Parse(strings.TrimPrefix(bearer(t, by.method, by.key, nil), "Bearer "), func(*jwt.Token) (any, error) { return a.key, nil })
			assert.Equal(t, of.method == by.method, err == nil, "%s for a key of %s: %v", by.method.Alg(), of.method.Alg(), err)
		}
	}
	a, err := NewAuth(nil, publicPEM(t, rsaKey), "", "", 0)
	require.NoError(t, err)
	_, err = a.parser.Parse(strings.TrimPrefix(bearer(t, jwt.SigningMethodPS256, rsaKey, nil), "Bearer "), func(*jwt.Token) (any, error) { return a.key, nil })
	assert.Error(t, err, "the same key, another algorithm")
}

func TestNewAuth_NamesTheSettingThatIsWrong(t *testing.T) {
	t.Parallel()
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	require.NoError(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(ed)
	require.NoError(t, err)
	tests := map[string]struct {
		secret, publicKey []byte
		audience, issuer  string
		want              string
	}{
		"an empty secret":    {[]byte{}, nil, "", "", "AUTH_HMAC_SECRET_FILE: has 0 bytes"},
		"a short secret":     {[]byte(strings.Repeat("x", 31) + "\n\n"), nil, "", "", "AUTH_HMAC_SECRET_FILE: has 31 bytes"},
		"an empty key":       {nil, []byte{}, "", "", "AUTH_PUBLIC_KEY_FILE: is no PEM file"},
		"a private key":      {nil, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), "", "", "AUTH_PUBLIC_KEY_FILE: is no PEM file"},
		"a broken key":       {nil, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}), "", "", "AUTH_PUBLIC_KEY_FILE: "},
		"a short RSA key":    {nil, publicPEM(t, small), "", "", "AUTH_PUBLIC_KEY_FILE: has 1024 bits"},
		"an unknown curve":   {nil, publicPEM(t, p224), "", "", "AUTH_PUBLIC_KEY_FILE: is neither"},
		"both":               {secret, publicPEM(t, ed), "", "", "AUTH_PUBLIC_KEY_FILE: excludes"},
		"audience, no key":   {nil, nil, "im", "", "AUTH_AUDIENCE: "},
		"issuer, but no key": {nil, nil, "", "login", "AUTH_ISSUER: "},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := NewAuth(test.secret, test.publicKey, test.audience, test.issuer, 0)
			require.ErrorContains(t, err, test.want)
			assert.NotContains(t, err.Error(), "\n")
		})
	}
	none, err := NewAuth(nil, nil, "", "", 0)
	require.NoError(t, err)
	assert.Nil(t, none)
}
