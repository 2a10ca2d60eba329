"""Questions in other languages that follow up on one before them, and such that stand by themselves.

Made up for the tests: a question and its answer, follow-ups to it, and questions about the same that need
nothing of it.
"""

from __future__ import annotations

CONVERSATIONS = {
    "de": (
        ("Wie tief darf ein Schiff an Liegeplatz 7 liegen?", "6,9 m"),
        ("Und an Liegeplatz 8?", "Und nachts?", "Wie lange gilt das?", "Wer genehmigt es?", "Warum?",
         "Wie hoch sind ihre Gebühren?", "Darf man dort tanken?", "Bei Nebel?"),
        ("Wann öffnet die Schleuse am Sonntag?", "Was kostet ein Lotse bei Nacht?", "Wer ist Hafenmeister?",
         "Wie lange gilt eine Genehmigung für Taucher?", "Können Sie mir sagen, wo Altöl abgegeben wird?",
         "Welcher Kran hebt vierzig Tonnen?", "Dürfen Hunde an Bord der Fähre?", "Was ist Nitrox?"),
    ),
    "fr": (
        ("Quel est le tirant d'eau maximal au poste 7 ?", "6,9 m"),
        ("Et au poste 8 ?", "Et la nuit ?", "Qui l'autorise ?", "Pourquoi ?",
         "Combien de temps est-il valable ?", "Quelle est sa longueur ?", "Par brouillard ?",
         "Où se trouve celui de secours ?"),
        ("À quelle heure ouvre l'écluse le dimanche ?", "Combien coûte un pilote la nuit ?",
         "Qui délivre les permis de plongée ?", "Quelle grue soulève quarante tonnes ?",
         "Où faut-il déposer les huiles usées ?", "Les chiens sont-ils admis sur le bac ?",
         "Combien de remorqueurs faut-il pour un pétrolier ?", "Comment signaler un incendie au port ?"),
    ),
    "es": (
        ("¿Cuál es el calado máximo en el muelle 7?", "6,9 m"),
        ("¿Y en el muelle 8?", "¿Y de noche?", "¿Quién lo autoriza?", "¿Por qué?", "¿Cuánto cuesta?",
         "¿Cuál es su longitud?", "¿Con niebla?", "¿También los domingos?"),
        ("¿A qué hora abre la esclusa el domingo?", "¿Cuánto cuesta un práctico de noche?",
         "¿Quién concede los permisos de buceo?", "¿Qué grúa levanta cuarenta toneladas?",
         "¿Dónde se entrega el aceite usado?", "¿Se permiten perros a bordo del transbordador?",
         "¿Cuántos remolcadores necesita un petrolero?", "¿Cómo se avisa de un incendio en el puerto?"),
    ),
    "it": (
        ("Qual è il pescaggio massimo alla banchina 7?", "6,9 m"),
        ("E alla banchina 8?", "E di notte?", "Chi lo autorizza?", "Perché?", "Quanto costa?",
         "Qual è la sua lunghezza?", "Con la nebbia?", "Anche la domenica?"),
        ("A che ora apre la chiusa la domenica?", "Quanto costa un pilota di notte?",
         "Chi rilascia i permessi di immersione?", "Quale gru solleva quaranta tonnellate?",
         "Dove si consegna l'olio usato?", "I cani sono ammessi a bordo del traghetto?",
         "Quanti rimorchiatori servono per una petroliera?", "Come si segnala un incendio nel porto?"),
    ),
    "pt": (
        ("Qual é o calado máximo no cais 7?", "6,9 m"),
        ("E no cais 8?", "E à noite?", "Quem autoriza isso?", "Por quê?", "Quanto custa?",
         "Qual é o seu comprimento?", "Com nevoeiro?", "Também aos domingos?"),
        ("A que horas abre a eclusa no domingo?", "Quanto custa um piloto à noite?",
         "Quem concede as licenças de mergulho?", "Qual guindaste levanta quarenta toneladas?",
         "Onde se entrega o óleo usado?", "Os cães são admitidos a bordo da balsa?",
         "Quantos rebocadores precisa um petroleiro?", "Como se comunica um incêndio no porto?"),
    ),
    "nl": (
        ("Hoe diep mag een schip aan ligplaats 7 steken?", "6,9 m"),
        ("En aan ligplaats 8?", "En 's nachts?", "Hoe lang is het geldig?", "Wie beslist daarover?",
         "Waarom?", "Hoe lang is hij?", "Bij mist?", "Mag men daar tanken?"),
        ("Wanneer opent de sluis op zondag?", "Wat kost een loods in de nacht?",
         "Wie geeft vergunningen voor duikers uit?", "Welke kraan tilt veertig ton?",
         "Waar wordt afgewerkte olie ingeleverd?", "Mogen honden aan boord van de veerboot?",
         "Hoeveel sleepboten heeft een tanker nodig?", "Hoe meldt men brand in de haven?"),
    ),
    "pl": (
        ("Jakie jest maksymalne zanurzenie przy nabrzeżu 7?", "6,9 m"),
        ("A przy nabrzeżu 8?", "A w nocy?", "Kto to zatwierdza?", "Dlaczego?", "Ile kosztuje?",
         "Jaka jest jego długość?", "We mgle?", "Czy można tam tankować?"),
        ("O której otwiera się śluza w niedzielę?", "Ile kosztuje pilot w nocy?",
         "Kto wydaje zezwolenia na nurkowanie?", "Który dźwig podnosi czterdzieści ton?",
         "Gdzie oddaje się zużyty olej?", "Czy psy mogą wejść na pokład promu?",
         "Ile holowników potrzebuje tankowiec?", "Jak zgłosić pożar w porcie?"),
    ),
    "ru": (
        ("Какая наибольшая осадка у причала 7?", "6,9 м"),
        ("А у причала 8?", "А ночью?", "Кто это разрешает?", "Почему?", "Сколько стоит?",
         "Какова его длина?", "В тумане?", "Можно ли там заправиться?"),
        ("Когда открывается шлюз в воскресенье?", "Сколько стоит лоцман ночью?",
         "Кто выдаёт разрешения на погружения?", "Какой кран поднимает сорок тонн?",
         "Куда сдают отработанное масло?", "Можно ли брать собак на борт парома?",
         "Сколько буксиров нужно танкеру?", "Как сообщить о пожаре в порту?"),
    ),
    "zh": (
        ("7号泊位的最大吃水是多少？", "6.9米"),
        ("那8号泊位呢？", "夜间呢？", "为什么？", "它的长度是多少？", "谁批准？", "那里可以加油吗？"),
        ("船闸星期天几点开放？", "夜间引航费是多少？", "谁发放潜水许可证？", "哪台起重机能吊四十吨？",
         "废油应该交到哪里？", "油轮需要几艘拖轮？"),
    ),
    "ja": (
        ("岸壁7の最大喫水は？", "6.9 m"),
        ("岸壁8は？", "夜は？", "なぜ？", "それはいつまで有効ですか？", "では夜間は？",
         "そこで給油できますか？"),
        ("水門は日曜日の何時に開きますか？", "夜間の水先料はいくらですか？", "潜水の許可は誰が出しますか？",
         "四十トンを吊れるクレーンはどれですか？", "廃油はどこに出しますか？",
         "タンカーには何隻の曳船が必要ですか？"),
    ),
    "ko": (
        ("7번 선석의 최대 흘수는 얼마입니까?", "6.9 m"),
        ("그리고 8번 선석은?", "밤에는?", "왜?", "그것은 언제까지 유효합니까?", "안개가 끼면?"),
        ("일요일에 갑문은 몇 시에 열립니까?", "누가 잠수 허가를 내줍니까?",
         "어느 크레인이 40톤을 들어 올립니까?",
         "야간 도선료는 얼마입니까?", "폐유는 어디에 버립니까?"),
    ),
    "tr": (
        ("7 numaralı rıhtımda en fazla su çekimi ne kadar?", "6,9 m"),
        ("Gece?", "Neden?", "Sisli havada?"),
        ("Pazar günü savak saat kaçta açılıyor?", "Kırk tonluk yükü hangi vinç kaldırır?",
         "Dalış izinlerini hangi makam veriyor?"),
    ),
}  # fmt: skip
"""Language -> a question with its answer, what follows up on it, what stands by itself."""
